"""`align chat CKPT`: chat with a checkpoint in the terminal, or with several in a browser; replies are streamed."""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ONE_REPLY = {"num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
WEB_OPTIONS = ("votes", "port", "host", "api_key", "allowed_host", "memory")
HELP = "/reset starts a new conversation, /quit (or end of input) exits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CKPT",
        help="a checkpoint folder (full model or adapter) or hub id; several with --web, each as CKPT or NAME=CKPT",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="print one reply to TEXT and exit")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 for greedy decoding (default: 0.7)")
    parser.add_argument(
        "--recommended",
        action="store_true",
        help="use the settings in the checkpoint's generation_config.json (repetition_penalty, top_p, ...); a "
        "temperature there replaces --temperature",
    )
    parser.add_argument("--max_new_tokens", type=int, default=256, help="tokens per reply, at most (default: 256)")
    parser.add_argument(
        "--seed", type=int, default=None, help="sampling seed (default: 0; with --web a random one for each reply)"
    )
    add_web_arguments(parser)


def add_web_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the pages."""
    web = parser.add_argument_group("in a browser")
    web.add_argument(
        "--web",
        action="store_true",
        help="serve pages on this machine: checkpoints side by side, blind votes, their results; the replies of "
        "`align serve`, whose API is there too (extra `serve`)",
    )
    web.add_argument(
        "--votes", metavar="FILE", help="file that votes are appended to (default: votes.jsonl in this folder)"
    )
    web.add_argument("--port", type=int, help="port; 0 takes a free port (default: 8000)")
    web.add_argument("--host", help="address to listen on, as in `align serve` (default: 127.0.0.1, this machine)")
    web.add_argument("--api_key", metavar="KEY", help="key that the pages ask for, as in `align serve`")
    web.add_argument(
        "--allowed_host", action="append", metavar="NAME", help="a further name of this server, as in `align serve`"
    )
    web.add_argument("--memory", help="memory for keys and values of all models (default: 1G)")


def main(args: argparse.Namespace) -> int:
    check_settings(args)
    if args.web:
        from alignment.cli.inspect.chat_in_browser import serve_pages

        return serve_pages(args)
    check_terminal(args)
    return chat_in_terminal(args.checkpoints[0], args)


def chat_in_terminal(checkpoint: str, args: argparse.Namespace) -> int:
    """Print the reply to a prompt, or converse until the end of input."""
    from transformers import set_seed

    from alignment.models.generation import own_settings
    from alignment.models.loading import load_causal_lm
    from alignment.pipeline.parents import check_outside

    check_outside("CKPT", checkpoint, "causal-lm", [])
    model, tokenizer = load_causal_lm(checkpoint)
    set_seed(args.seed or 0)
    chat = Chat(model.eval(), tokenizer, args.temperature, args.max_new_tokens, recommended=args.recommended)
    for line in settings_lines(own_settings(model.generation_config), args.recommended):
        print(line, file=sys.stderr)  # standard output holds only the reply
    if args.prompt is not None:
        chat.answer(args.prompt)
        return 0
    print(f"{checkpoint}: {HELP}")
    if not tokenizer.chat_template:
        print("This checkpoint has no chat template: it completes the text you type, and keeps no history.")
    converse(chat)
    return 0


def check_settings(args: argparse.Namespace) -> None:
    """Raise for settings that cannot be sampled with."""
    from alignment.errors import UserError

    if not 0 <= args.temperature < float("inf"):
        raise UserError("--temperature is out of range", got=args.temperature, expected="0 or more, and finite")
    if args.seed is not None and not 0 <= args.seed < 2**32:
        raise UserError("--seed is out of range", got=args.seed, expected="0 to 2**32 - 1")
    if args.max_new_tokens < 1:
        raise UserError("--max_new_tokens is too small", got=args.max_new_tokens, expected="1 or more")


def check_terminal(args: argparse.Namespace) -> None:
    """Raise for what only the pages have."""
    from alignment.errors import UserError, raise_all

    errors = []
    if len(args.checkpoints) > 1:
        errors.append(
            UserError(
                "the terminal has one checkpoint at once",
                got=", ".join(args.checkpoints),
                fix="add --web to chat with several in a browser",
            )
        )
    given = [f"--{name}" for name in WEB_OPTIONS if getattr(args, name)]
    if given:
        errors.append(UserError(f"{', '.join(given)} belong to --web", fix="add --web, or leave them out"))
    raise_all(errors)


def settings_lines(settings: dict, recommended: bool) -> list[str]:
    """A line with the checkpoint's own generation settings, and whether they are used."""
    named = ", ".join(f"{name}={value}" for name, value in settings.items() if name not in ONE_REPLY)
    if not named:
        return []
    used = "used" if recommended else "not used; --recommended uses them"
    return [f"generation_config.json recommends {named}: {used}"]


def converse(chat: "Chat") -> None:
    """Read and answer lines until /quit or the end of input."""
    from alignment.errors import UserError

    while True:
        try:
            line = input("\n> ").strip()
        except EOFError:
            print()
            return
        if line == "/quit":
            return
        if line == "/reset":
            chat.messages.clear()
            print("(a new conversation)")
        elif line:
            try:
                chat.answer(line)
            except UserError as error:
                print(error)


@dataclass
class Chat:
    """A conversation with a model; without a chat template each line is completed on its own.

    Attributes:
        temperature: of sampling; 0 for greedy decoding.
        max_new_tokens: maximum length of a reply.
        messages: the conversation so far.
        recommended: use the settings of the model's generation config, not only its token ids.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    temperature: float
    max_new_tokens: int
    messages: list[dict[str, str]] = field(default_factory=list)
    recommended: bool = False

    def answer(self, line: str) -> str:
        """Print the reply as it is generated, add it to the conversation, and return it."""
        from transformers import TextStreamer

        from alignment.errors import UserError
        from alignment.models.generation import plain_generation, settings_named

        if not self.tokenizer.chat_template:
            self.messages.clear()
        self.messages.append({"role": "user", "content": line})
        try:
            prompt, room = self.fitting_prompt(line)
        except UserError:
            del self.messages[-1:]  # as if it had not been said
            raise
        streamer = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        plain = nullcontext() if self.recommended else plain_generation(self.model)
        with plain, settings_named(self.model.generation_config, self.sampling()):
            output = self.model.generate(
                **prompt, **self.sampling(), max_new_tokens=room, streamer=streamer, tokenizer=self.tokenizer
            )
        new_tokens = output[0, prompt["input_ids"].shape[1] :]
        reply = self.tokenizer.decode(new_tokens, skip_special_tokens=True).strip()
        self.messages.append({"role": "assistant", "content": reply})
        return reply

    def sampling(self) -> dict[str, bool | float | int]:
        """Arguments of `generate`: the command's settings, as far as the recommended settings do not replace them.

        Streaming needs a single reply without beams, whatever is recommended.
        """
        given: dict[str, bool | float | int] = {"do_sample": False}
        if self.temperature:  # transformers' default of top_k is 50
            given = {"do_sample": True, "temperature": self.temperature, "top_k": 0}
        own = vars(self.model.generation_config) if self.recommended else {}
        return {name: value for name, value in given.items() if own.get(name) is None} | ONE_REPLY

    def fitting_prompt(self, line: str) -> "tuple[dict[str, torch.Tensor], int]":
        """The prompt's tensors and the room for a reply; the oldest turns are dropped if the context is short."""
        from alignment.errors import UserError
        from alignment.models.context_length import context_length

        context = context_length(self.model.config)
        prompt = self.encode(line)
        while context and prompt["input_ids"].shape[1] + self.max_new_tokens > context and len(self.messages) > 1:
            del self.messages[:2]
            print("(the oldest turn no longer fits the context and was dropped)")
            prompt = self.encode(line)
        room = context - prompt["input_ids"].shape[1] if context else self.max_new_tokens
        if room < 1:
            self.messages.clear()
            raise UserError(
                "the prompt is longer than the model's context",
                got=f"{prompt['input_ids'].shape[1]} tokens",
                expected=f"fewer than {context}",
                fix="shorten it",
            )
        return prompt, min(room, self.max_new_tokens)

    def encode(self, line: str) -> "dict[str, torch.Tensor]":
        """The prompt's tensors: the conversation, or the line alone if there is no chat template."""
        from alignment.tokenization.chat_format import apply_template

        if self.tokenizer.chat_template:
            encoded = apply_template(
                self.tokenizer, self.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            begin = self.tokenizer.bos_token or self.tokenizer.eos_token  # of a text without tokens
            line = line if self.tokenizer(line)["input_ids"] else begin
            encoded = self.tokenizer(line, return_tensors="pt")
        return {key: encoded[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
