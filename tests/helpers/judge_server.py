"""An OpenAI-compatible endpoint on loopback, for tests of judges."""

import json
import math
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from reward_models.judges.api import PROBE

KEY = "sk-secret-0123456789"


class Server:
    """An endpoint that responds with `answer(question, attempt)`: a text, or (status, body, headers).

    With None it closes the connection without a response.
    """

    def __init__(self):
        self.requests, self.attempts, self.lock = [], {}, threading.Lock()
        self.answer = lambda question, attempt: "3"
        self.refuses_logprobs = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server.handle(self)

            do_GET = do_POST

            def log_message(self, *arguments):
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *arguments):
                pass  # a client that was killed or has stopped waiting

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        # 0.01: it looks for its end so often.
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def handle(self, handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length", 0))) or "{}")
        question = body["messages"][0]["content"] if body else ""
        with self.lock:
            self.requests.append((handler.command, handler.path, handler.headers, body))
            self.attempts[question] = attempt = self.attempts.get(question, 0) + 1
        if self.refuses_logprobs and "logprobs" in body:
            said = (400, "unknown parameter: logprobs", {})
        else:
            said = self.answer(question, attempt)
        if said is None:
            handler.close_connection = True
            return
        status, text, headers = said if isinstance(said, tuple) else (200, self.wrap(said), {})
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    def asked(self) -> Counter[str]:
        """How often each question arrived, without the probe."""
        return Counter({question: count for question, count in self.attempts.items() if question != PROBE})

    @staticmethod
    def wrap(text: str, tokens: list[tuple[str, dict[str, float]]] | None = None) -> str:
        """A response; with the probabilities of its tokens' alternatives if given."""
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if tokens is not None:
            choice["logprobs"] = {
                "content": [
                    {
                        "token": token,
                        "logprob": 0.0,
                        "top_logprobs": [{"token": one, "logprob": math.log(p)} for one, p in others.items()],
                    }
                    for token, others in tokens
                ]
            }
        return json.dumps({"choices": [choice]})
