"""An OpenAI-compatible endpoint on loopback that answers with a local model, for tests of evaluations."""

import json
import threading

import torch
from judge_server import Server

MODEL = "tiny"


def completion(text: str | None, *, chat: bool, tokens: int | None = None, finish: str = "stop", **more) -> str:
    """A response; `index` is left out, as some servers do."""
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return json.dumps({"model": MODEL, "choices": [said | {"finish_reason": finish}], **usage, **more})


class CompletionServer(Server):
    """Answers with `reply(body, chat, attempt)`: a response's text, or (status, text, headers); None hangs up.

    Attributes:
        routes: the routes that there are.
        key: if set, requests without it are refused.
        limit: characters of a prompt, from which it is too long.
    """

    def __init__(self):
        super().__init__()
        self.reply = lambda body, chat, attempt: completion("red", chat=chat, tokens=1)
        self.routes, self.key, self.limit, self.lists = {"/completions", "/chat/completions"}, None, None, True
        self.at_once, self.most_at_once = 0, 0

    def handle(self, handler) -> None:
        content = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        body = json.loads(content or "{}")
        route = handler.path.removeprefix("/v1")
        known = json.dumps({k: v for k, v in body.items() if k in ("prompt", "messages", "seed")}, sort_keys=True)
        with self.lock:
            self.requests.append((handler.command, route, handler.headers, body))
            self.attempts[known] = attempt = self.attempts.get(known, 0) + 1
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            said = self.respond(handler, route, body, attempt)
        finally:
            with self.lock:
                self.at_once -= 1
        if said is None:
            handler.close_connection = True
            return
        status, text, headers = said if isinstance(said, tuple) else (200, said, {})
        handler.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(text.encode())),
            **headers,
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    def respond(self, handler, route: str, body: dict, attempt: int):
        if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
            return 401, json.dumps({"error": f"wrong key {handler.headers.get('Authorization')}"}), {}
        if route == "/models":
            return json.dumps({"data": [{"id": MODEL}]}) if self.lists else (404, "{}", {})
        if route not in self.routes:
            return 404, json.dumps({"detail": "Not Found"}), {}
        if body["model"] != MODEL:
            return 404, json.dumps({"error": {"message": f"The model `{body['model']}` does not exist."}}), {}
        if len(body.get("stop", [])) > 4 or body.get("stop") == []:
            return 400, json.dumps({"error": {"message": "'stop': 1 to 4 strings"}}), {}
        if self.limit and len(json.dumps(body.get("messages") or body.get("prompt"))) > self.limit:
            return 400, json.dumps({"error": {"message": "maximum context length is 9", "code": None}}), {}
        return self.reply(body, route.startswith("/chat"), attempt)

    def evaluated(self) -> list[dict]:
        """The bodies of the requests for completions, without the first short ones."""
        return [body for _, _, _, body in self.requests if body and body["max_tokens"] != 1]


def model_replies(model, tokenizer, answered: list | None = None):
    """Greedy replies of a local model, one prompt at a time; written against transformers alone.

    Args:
        answered: collects the texts that the model was given.
    """
    lock = threading.Lock()

    @torch.no_grad()
    def reply(body: dict, chat: bool, attempt: int) -> str:
        assert body["temperature"] == 0
        text = (
            tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
            if chat
            else body["prompt"]
        )
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=not chat)
        with lock:
            if answered is not None:
                answered.append(text)
            given = model.generate(**ids, do_sample=False, max_new_tokens=body["max_tokens"], pad_token_id=3)
        tokens = given[0, ids["input_ids"].shape[1] :].tolist()
        ended = tokens[-1] in model.generation_config.eos_token_id
        for length in range(1, len(tokens) + 1):
            text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
            cuts = [text.index(stop) for stop in body.get("stop", []) if stop in text]
            if cuts:
                return completion(text[: min(cuts)], chat=chat, tokens=length)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        return completion(text, chat=chat, tokens=len(tokens), finish="stop" if ended else "length")

    return reply
