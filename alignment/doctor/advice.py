"""The recipe that fits the machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.pipeline.recipes.packaged_recipes import FOLDER, PIPELINE_FILE, name_here, packaged

FILES = "--model MODEL --math train.jsonl --instructions seed_tasks.jsonl --preferences hh.jsonl"


@dataclass(frozen=True)
class Recommendation:
    """A recipe, why it fits, and the command that runs it."""

    recipe: str
    why: str
    command: str


def recommend(gpus: Sequence[int], has_bitsandbytes: bool) -> Recommendation:
    """Return the recipe for a machine; the sizes are those of the recipes' headers.

    Args:
        gpus: bytes of each GPU.
    """
    memory = max(gpus, default=0) / 1e9
    if memory >= 78:
        return _lora("lora-1gpu", f"{memory:.0f} GB hold LoRA on up to 8B parameters in 16 bit")
    if memory >= 23 and has_bitsandbytes:
        return _lora("qlora-1gpu", f"{memory:.0f} GB hold LoRA on up to 8B parameters in 4 bit, about 1B in 16 bit")
    if memory >= 23:
        more = "pip install bitsandbytes, and recipes/qlora-1gpu takes up to 8B"
        return _lora("lora-1gpu", f"{memory:.0f} GB hold LoRA on about 1B parameters in 16 bit; {more}")
    if memory >= 14:
        return _lora(
            "lora-1gpu", f"{memory:.0f} GB hold all its stages on 270M parameters in 16 bit, SFT and DPO on more"
        )
    where = f"{memory:.0f} GB of GPU memory are less than recipes/lora-1gpu needs" if gpus else "without a GPU"
    name = _named("tiny")
    return Recommendation("tiny", f"{where}: a model of 1M parameters, from random weights to PPO", f"align run {name}")


def _lora(recipe: str, why: str) -> Recommendation:
    return Recommendation(recipe, why, f"align run {_named(recipe)} {FILES}")


def _named(recipe: str) -> str:
    """The recipe as the command line takes it here: a recipe folder if there is one."""
    for name in (f"{FOLDER}/{recipe}", recipe):
        if Path(name, PIPELINE_FILE).is_file():
            return name
    return name_here(recipe) or shlex.quote(str(packaged()[recipe]))
