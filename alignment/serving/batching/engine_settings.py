"""Settings and limits of the engines."""

from dataclasses import dataclass

CHUNK_CPU, CHUNK_GPU = 128, 2048


@dataclass(frozen=True)
class EngineSettings:
    """Limits of an engine.

    Attributes:
        memory: bytes for the cache of keys and values, with the tensors that grow with it.
        streams: replies that are generated at once.
        queue: replies that wait for one of these places.
        block: tokens of a block of the cache. A prompt shares the blocks that it fills with earlier prompts that
            begin alike, so that short prompts need small blocks.
        chunk: tokens of a forward pass, at most; a longer prompt is read in several passes, between which running
            replies get their next tokens. None: 128 on a CPU, 2,048 on a GPU, but at least a token per stream.
        share_prefixes: reuse the blocks of earlier prompts.
    """

    memory: int = 2**30
    streams: int = 64
    queue: int = 64
    block: int = 16
    chunk: int | None = None
    share_prefixes: bool = True

    def chunk_on(self, device: str) -> int:
        """Return the tokens of a forward pass on a kind of device."""
        return self.chunk or max(CHUNK_CPU if device == "cpu" else CHUNK_GPU, self.streams)
