"""Random numbers that depend on a key alone, whatever was drawn before: a resumed run draws the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keyed_seed(*key: object) -> int:
    """Derive a seed of 56 bits from a key: the first bytes of the SHA-256 of the key's `repr`."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")


def keyed_generator(*key: object) -> torch.Generator:
    """Return a CPU generator that a key seeds."""
    import torch

    return torch.Generator().manual_seed(keyed_seed(*key))


@contextmanager
def keyed_rng(device: torch.device, *key: object) -> Iterator[None]:
    """Seed torch's global generators by a key within the context, and restore their states afterwards."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(keyed_seed(*key))
        yield
