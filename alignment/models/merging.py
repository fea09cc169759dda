"""Merging of adapters into their base: plain weights with the same logits."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from alignment.durable.atomic import write_json
from alignment.durable.manifest import new_checkpoint, sha256
from alignment.durable.read import read_json
from alignment.errors import UserError
from alignment.models.adapters import fitted
from alignment.models.chain import (
    ADAPTER_WEIGHTS,
    MERGED_FILE,
    Chain,
    Link,
    read_chain,
    read_merged_from,
    weights_digest,
)
from alignment.models.checkpoints import ADAPTER_CONFIG, adapter_base, adapter_folder, is_adapter, require_sound
from alignment.models.examined.weight_files import ADAPTER, require_weights
from alignment.models.generation import agree_with_generation
from alignment.models.loading import load_config, load_tokenizer, load_trainable
from alignment.models.merge_in_place import TOLERANCE, change_of, logits_of, merge_in_place
from alignment.models.vocabulary import require_rows

# As TOLERANCE, for weights that are saved. In 32 bits 1.5e-5 was measured with a dequantised base (the merged weights
# were then closer to the 64-bit result), and 1.3e-5 with large random weights.
SAVED = TOLERANCE | {"float32": 1e-4}
TRIED = 64  # tokens that the logits are compared on


@dataclass(frozen=True)
class Merge:
    """A merged checkpoint.

    Attributes:
        folder: the checkpoint.
        dtype: type of its weights.
        difference: largest difference between the logits of base and adapters, and those of the saved weights.
        largest: largest |logit|.
    """

    folder: Path
    dtype: str
    difference: float
    largest: float


def merge(checkpoint: str | Path, output_dir: Path, dtype: str | None = None) -> Merge:
    """Merge adapters into their base, and write the weights with tokenizer and generation config.

    The sum is computed in 32 bits, with the dequantised weights of a quantised base.

    Args:
        dtype: type of the weights to write; default: the type that the base was saved in.

    Raises:
        UserError: the checkpoint is no adapter; the folder is not empty; the logits differ.
    """
    import torch

    if not is_adapter(checkpoint):
        load_config(checkpoint)  # raises if there is no model at all
        raise UserError(
            f"{checkpoint} has no adapters to merge",
            got="a full model",
            expected="the checkpoint of an adapter",
            fix="use it as it is",
        )
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(
            f"{output_dir} exists and is not empty",
            expected="a folder that is new or empty",
            fix="give another --output_dir; nothing has been overwritten",
        )
    require_sound(checkpoint)
    require_weights(adapter_folder(checkpoint), ADAPTER)
    origin = _origin(checkpoint)
    dtype = dtype or str(load_config(checkpoint).dtype or torch.float32).removeprefix("torch.")
    kind = "sequence-classification" if _task(checkpoint) == "SEQ_CLS" else "causal-lm"
    adapted = load_trainable(checkpoint, kind, dtype="float32", dequantize=True).eval()
    expected = logits_of(adapted, TRIED)
    with fitted(checkpoint):
        merged = merge_in_place(adapted)
    merged.config.dtype = getattr(torch, dtype)
    for parameter in merged.parameters():  # rounded to the type to save, for a computation in 32 bits
        parameter.data = parameter.data.to(merged.config.dtype).float()
    difference, largest = change_of(logits_of(merged, TRIED), expected)
    tolerance = SAVED.get(dtype, SAVED["bfloat16"])
    if not difference <= tolerance * largest:
        raise UserError(
            f"merging {checkpoint} changes its logits",
            got=f"a difference of {difference:.2g}; the largest logit is {largest:.3g}",
            expected=f"a difference of at most {tolerance:g} times the largest logit",
            fix="keep the adapter; --dtype float32 rounds less" if dtype != "float32" else "keep the adapter",
        )
    tokenizer = load_tokenizer(checkpoint)
    require_rows(merged, tokenizer, str(checkpoint))
    agree_with_generation(merged)
    with new_checkpoint(output_dir) as folder:
        merged.to(merged.config.dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / MERGED_FILE, origin)
    return Merge(output_dir, dtype, difference, largest)


def merge_once(checkpoint: str | Path, output_dir: Path, options: dict) -> Path:
    """Merge the base of a stage, unless an interrupted run of the stage left it complete."""
    if read_merged_from(output_dir) != _origin(checkpoint):
        shutil.rmtree(output_dir, ignore_errors=True)
        dtype = options.get("dtype")
        merge(checkpoint, output_dir, None if dtype == "auto" else dtype)
    return output_dir


def _origin(checkpoint: str | Path) -> dict:
    """Return the origin of a merge: the recorded chain, or otherwise the adapter and its base."""
    folder, base = adapter_folder(checkpoint), adapter_base(checkpoint)
    own = Link(".", [str(checkpoint)], sha256(folder / ADAPTER_WEIGHTS))
    return asdict(read_chain(folder) or Chain(base, weights_digest(base), [own]))


def _task(checkpoint: str | Path) -> str | None:
    return read_json(adapter_folder(checkpoint) / ADAPTER_CONFIG).get("task_type")
