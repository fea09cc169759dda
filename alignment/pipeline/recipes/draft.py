"""Drafts of recipes from a model and data alone: recipes/lora-1gpu's settings, for any stage that it has."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from alignment.data.arguments import DataArguments
from alignment.data.reading.sources import own_test_split
from alignment.pipeline.recipes.recipe import read_mapping, read_recipe

BASE, QUANTISED = "lora-1gpu", "qlora-1gpu"
# Settings for the files that lora-1gpu names: they would be wrong for others.
ABOUT_ITS_DATA = {entry.name for entry in fields(DataArguments)} | {"model_name_or_path", "reward_funcs"}
ADAPTER_KEYS = ("use_peft", "lora_r", "lora_alpha", "lora_dropout")
# Without an adapter rates are lower, and weights are held in 32 bits: in 16 bits most updates would be rounded away.
ONLY_FOR_ADAPTERS = ("learning_rate", "value_learning_rate", "dtype", *ADAPTER_KEYS)
# Of all weights: TRL's own, except the reward model's, which is the usual one (TRL's default is for adapters).
RATES = {"sft": 2e-5, "reward": 1e-5, "dpo": 1e-6, "kto": 1e-6, "ppo": 1e-6, "grpo": 1e-6}
ROLLOUT = "steps_per_generation"
MICRO, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


@dataclass
class Draft:
    """A recipe in the making.

    Attributes:
        recipe: key -> value.
        reasons: key -> why it has this value, for a comment at its line.
        chosen: the keys that the user set, which nothing else changes.
    """

    recipe: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    chosen: frozenset[str] = frozenset()

    def set(self, key: str, value: Any, reason: str) -> None:
        """Set a key, unless the user did."""
        if key not in self.chosen:
            self.recipe[key] = value
            self.reasons[key] = reason


def draft(
    stage: str, folder: Path, given: Mapping[str, Any], *, new_adapter: bool, continued: bool, chosen: Mapping[str, Any]
) -> Draft:
    """Return the first draft of a recipe.

    Args:
        folder: recipes/lora-1gpu.
        given: the keys for model, data and reward.
        new_adapter: whether to train a new LoRA adapter.
        continued: whether the model is an adapter, whose training continues.
        chosen: the user's own keys, which may be nested.
    """
    own = {key: value for key, value in read_recipe(folder / f"{stage}.yaml").items() if key not in ABOUT_ITS_DATA}
    adapter = {key: value for key, value in read_recipe(folder / "sft.yaml").items() if key in ADAPTER_KEYS}
    if new_adapter or continued:
        recipe = {key: value for key, value in own.items() if key not in ADAPTER_KEYS}
        recipe = {**given, **(adapter if new_adapter else {}), **recipe}
    else:
        recipe = {**given, **{key: value for key, value in own.items() if key not in ONLY_FOR_ADAPTERS}}
        recipe["learning_rate"] = RATES[stage]
    if "num_train_epochs" in chosen:
        recipe.pop("max_steps", None)  # it would win
    made = Draft({**recipe, **chosen}, chosen=frozenset(chosen))
    if recipe.get("eval_strategy", "no") != "no" and not _holds_out(made.recipe):
        made.set("eval_strategy", "no", "no rows are held out")
    return made


def _holds_out(recipe: Mapping[str, Any]) -> bool:
    """Whether there are rows to validate on."""
    source = recipe.get("dataset_name")
    if recipe.get("eval_share") != 0 or recipe.get("dataset_test_split"):
        return True
    return bool(source and own_test_split(source))


def with_micro_batch(recipe: Mapping[str, Any], micro: int) -> dict[str, Any]:
    """Return the batch keys for a smaller micro-batch that divides the present one, with equal batches and rollouts."""
    times = recipe[MICRO] // micro
    keys = {MICRO: micro, ACCUMULATION: recipe.get(ACCUMULATION, 1) * times}
    return keys | ({ROLLOUT: recipe[ROLLOUT] * times} if ROLLOUT in recipe else {})


def quantised(folder: Path, stage: str) -> dict[str, Any]:
    """Return the keys by which recipes/qlora-1gpu, in `folder`, differs from recipes/lora-1gpu, but not the batch's."""
    recipe = read_mapping(folder / f"{stage}.yaml")
    return {key: value for key, value in recipe.items() if key not in ("extends", MICRO, ACCUMULATION)}


def recipe_text(header: Sequence[str], made: Draft) -> str:
    """Return a recipe file: the header as comments, then a key per line, with the reason as a comment."""
    mapping = CommentedMap(made.recipe)
    for key, reason in made.reasons.items():
        mapping.yaml_add_eol_comment(reason, key, column=0)
    writer, stream = YAML(), io.StringIO()
    writer.width = 10_000
    writer.dump(mapping, stream)
    return "".join(f"# {line}".rstrip() + "\n" for line in header) + stream.getvalue()
