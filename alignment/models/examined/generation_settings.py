"""The generation config of a checkpoint: whether it is one, with token ids and counts that `generate` can use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.read import COPY_AGAIN, read_json
from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig

FILE = "generation_config.json"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
COUNTS = ("num_beams", "num_beam_groups", "num_return_sequences")  # that `generate` divides by, or makes rows of


def require_readable(folder: Path) -> None:
    """Raise if a local checkpoint has a generation config that is no JSON object: transformers would ignore it."""
    if (folder / FILE).is_file():
        read_json(folder / FILE, COPY_AGAIN)


def require_usable(config: GenerationConfig, checkpoint: str | Path) -> None:
    """Raise for token ids and counts of other types than `generate` takes."""
    ids = {name: getattr(config, name, None) for name in IDS}
    wrong = {name: value for name, value in ids.items() if not (value is None or _are_ids(value))}
    counts = {name: getattr(config, name, None) for name in COUNTS}
    wrong |= {name: value for name, value in counts.items() if value is not None and not _is_count(value)}
    if wrong:
        raise UserError(
            f"the generation config of {checkpoint} is damaged",
            got=", ".join(f"{name}: {value!r}" for name, value in wrong.items()),
            expected="token ids (a number, or several in a list), and counts of 1 or more",
            fix=f"correct {FILE}, or copy it again",
        )


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _are_ids(value: Any) -> bool:
    return all(type(one) is int for one in (value if isinstance(value, list) else [value]))
