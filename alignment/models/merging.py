"""Adapters merged into their base: plain weights that say what the chain says."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.durable.atomic import write_json
from alignment.durable.manifest import new_checkpoint, sha256
from alignment.durable.read import read_json
from alignment.errors import UserError
from alignment.models.chain import (
    ADAPTER_WEIGHTS,
    MERGED_FILE,
    Chain,
    Link,
    read_chain,
    read_merged_from,
    weights_digest,
)
from alignment.models.checkpoints import ADAPTER_CONFIG, adapter_base, adapter_folder, is_adapter
from alignment.models.loading import load_config, load_tokenizer, load_trainable

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# Of the largest |logit|: what rounding of the merged weights may change, by the type that they are saved in. In 16 bit
# every matrix is rounded, not the sum alone. A dequantised base has had 1.5e-5 in 32 bit, where the merged weights were
# the nearer to 64 bit.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}
DEQUANTISED = {"float32": 1e-4}
TRIED = 64  # tokens of the text that the logits are compared on


@dataclass(frozen=True)
class Merge:
    """What was written.

    Attributes:
        difference: the largest between the logits of base + adapters and of the merged weights as they are saved.
        largest: the largest |logit|.
    """

    folder: Path
    dtype: str
    difference: float
    largest: float


def merge(checkpoint: str | Path, output_dir: Path, dtype: str | None = None) -> Merge:
    """Write plain weights whose logits are those of an adapter on its base, with tokenizer and generation config.

    The sum is made in 32 bit, whatever the types are; of a quantised base it is made with the dequantised weights.

    Args:
        dtype: of the weights to write; default: the type that the base was saved in.

    Raises:
        UserError: the checkpoint is no adapter of a causal LM; the folder is taken; the logits are not the same.
    """
    import torch

    if not is_adapter(checkpoint):
        load_config(checkpoint)  # raises where there is no model at all
        raise UserError(
            f"{checkpoint} has no adapters to merge",
            got="a full model",
            expected="the checkpoint of an adapter",
            fix="use it as it is",
        )
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(
            f"{output_dir} is taken",
            expected="a folder that is new or empty",
            fix="give another --output_dir; nothing has been overwritten",
        )
    origin = _origin(checkpoint)
    dtype = dtype or str(load_config(checkpoint).dtype or torch.float32).removeprefix("torch.")
    kind = "sequence-classification" if _task(checkpoint) == "SEQ_CLS" else "causal-lm"
    adapted = load_trainable(checkpoint, kind, dtype="float32", dequantize=True).eval()
    expected = _logits(adapted)
    merged = adapted.merge_and_unload()
    merged.config.dtype = getattr(torch, dtype)
    for parameter in merged.parameters():  # rounded as they will be saved, and still computed with in 32 bit
        parameter.data = parameter.data.to(merged.config.dtype).float()
    found = _logits(merged)
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    tolerance = (TOLERANCE | (DEQUANTISED if origin["quantization"] else {})).get(dtype, TOLERANCE["bfloat16"])
    if not difference <= tolerance * largest:
        raise UserError(
            f"merging {checkpoint} changes what it says",
            got=f"logits that differ by {difference:.2g}, the largest is {largest:.3g}",
            expected=f"at most {tolerance:g} of the largest",
            fix="keep the adapter; --dtype float32 rounds less" if dtype != "float32" else "keep the adapter",
        )
    with new_checkpoint(output_dir) as folder:
        merged.to(merged.config.dtype).save_pretrained(folder)
        load_tokenizer(checkpoint).save_pretrained(folder)
        write_json(folder / MERGED_FILE, origin)
    return Merge(output_dir, dtype, difference, largest)


def merge_once(checkpoint: str | Path, output_dir: Path, options: dict) -> Path:
    """The merged base of a stage, made unless an interrupted run of the stage has left it whole."""
    if read_merged_from(output_dir) != _origin(checkpoint):
        shutil.rmtree(output_dir, ignore_errors=True)
        dtype = options.get("dtype")
        merge(checkpoint, output_dir, None if dtype == "auto" else dtype)
    return output_dir


def _origin(checkpoint: str | Path) -> dict:
    """What a merge was made of: the chain, or where none is recorded the adapter and its base."""
    folder, base = adapter_folder(checkpoint), adapter_base(checkpoint)
    own = Link(".", [str(checkpoint)], sha256(folder / ADAPTER_WEIGHTS))
    return asdict(read_chain(folder) or Chain(base, weights_digest(base), [own]))


def _task(checkpoint: str | Path) -> str | None:
    return read_json(adapter_folder(checkpoint) / ADAPTER_CONFIG)["task_type"]


def _logits(model: PreTrainedModel) -> Tensor:
    """Of a row of tokens from all over the vocabulary."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.linspace(0, vocabulary - 1, min(TRIED, vocabulary), device=model.device).long()[None]
    with torch.no_grad():
        return model(input_ids=ids).logits.float()
