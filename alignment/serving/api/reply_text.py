"""The text of a reply, piece by piece: whole characters, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ReplyText:
    """Turns the tokens of a reply into text that can be sent.

    Text that may be the beginning of a stop string, and bytes that are not yet a character, are held back until the
    next tokens decide.

    Args:
        backend: the tokenizer, which no other thread uses.
        stops: strings that end the reply; neither they nor what follows is part of it.
        ends: ids of tokens that end the reply.
        limit: tokens of the reply, at most.

    Attributes:
        tokens: ids so far.
        reason: why the reply ended: `stop` or `length`; None while it is generated.
        shown: number of tokens, from the first, that are part of the text: not an end token.
    """

    def __init__(self, backend: Tokenizer, stops: Sequence[str], ends: Sequence[int], limit: int):
        self.backend, self.stops, self.ends, self.limit = backend, stops, set(ends), limit
        self.decoder = DecodeStream(skip_special_tokens=True)
        self.tokens: list[int] = []
        self.decoded, self.sent = "", 0
        self.reason: str | None = None

    @property
    def shown(self) -> int:
        return len(self.tokens) - bool(self.tokens and self.tokens[-1] in self.ends)

    def add(self, tokens: Sequence[int], finished: bool) -> str:
        """Add tokens, and return the text that can be sent; after a stop string, further tokens are ignored.

        Args:
            finished: whether the engine generates no more.
        """
        for token in tokens:
            if self.reason is not None:
                return ""
            self.tokens.append(token)
            self.decoded += self.decoder.step(self.backend, token) or ""
            if (cut := self._first_stop()) is not None:
                self.reason = "stop"
                return self._send(cut)
        if not finished:
            return self._send(len(self.decoded) - self._held())
        self.decoded = self._complete()
        cut = self._first_stop()
        ended = cut is not None or bool(self.tokens and self.tokens[-1] in self.ends)
        self.reason = "stop" if ended else "length"
        return self._send(len(self.decoded) if cut is None else cut)

    def _complete(self) -> str:
        """Return the text with what the decoder still holds: bytes that did not become a character."""
        whole = self.backend.decode(self.tokens, skip_special_tokens=True)
        return whole if whole.startswith(self.decoded) else self.decoded

    def _send(self, end: int) -> str:
        piece = self.decoded[self.sent : max(self.sent, end)]
        self.sent += len(piece)
        return piece

    def _first_stop(self) -> int | None:
        """Return where the first stop string begins in the text that is not sent yet."""
        found = [at for stop in self.stops if (at := self.decoded.find(stop, self.sent)) >= 0]
        return min(found, default=None)

    def _held(self) -> int:
        """Return the number of last characters that may be the beginning of a stop string."""
        pending = self.decoded[self.sent :]
        longest = min(len(pending), max(map(len, self.stops), default=0))
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(stop.startswith(pending[-size:]) for stop in self.stops)), 0)
