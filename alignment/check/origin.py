"""The tokenizer and model that a stage will start from, found before anything has been trained."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, PeftConfig

from alignment.check.findings import Finding, from_user_error, note
from alignment.check.material import Origin, PlannedModel, first_texts
from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.checkpoints import is_adapter, is_path
from alignment.models.loading import load_config, load_tokenizer
from alignment.pipeline.graph import Pipeline
from alignment.pipeline.recipes.pipeline_file import PIPELINE_FILE, read_settings
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.pipeline.stage_spec import StageSpec
from alignment.stages.pretrain import new_config
from alignment.tokenization.base import Changes, make_chat_ready, take_template
from alignment.tokenization.train import SMALLEST_VOCABULARY, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENIZER_KEYS = ("tokenizer_name_or_path", "model_name_or_path")
STAND_IN_VOCABULARY = 4096
# A stand-in learns from so many rows.
STAND_IN_ROWS = 300


@dataclass(frozen=True)
class Chain:
    """The recipes from where a tokenizer comes from down to a stage's own, and the path or hub id above them.

    `methods` are the stages that the recipes are for.
    """

    recipes: list[dict[str, Any]]
    outside: str | None
    methods: list[str]


def recipes_of(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """The recipes of a pipeline's stages by name; of a stage alone those of the pipeline.yaml beside it too."""
    recipes: dict[str, dict[str, Any]] = {}
    if (pipeline.recipe_dir / PIPELINE_FILE).is_file():
        stages = read_settings(pipeline.recipe_dir).stages
        recipes = {name: read_recipe(pipeline.recipe_dir / file) for name, file in stages.items()}
    return recipes | {spec.name: spec.recipe for spec in pipeline.stages}


def chain(
    spec: StageSpec, recipes: dict[str, dict[str, Any]], keys: Sequence[str], remaining: dict[str, Path]
) -> Chain:
    """Follow a stage's parents up, to a checkpoint that is there or to a recipe that starts from nothing.

    Args:
        keys: the recipe keys that name the parent, the first that is set counts.
        remaining: stages whose checkpoint is there and stays.
    """
    below, methods, recipe, seen = [], [], spec.recipe, {spec.name}
    method = spec.module.__name__.rpartition(".")[2]
    while True:
        below.insert(0, recipe)
        methods.insert(0, method)
        parent = next((recipe[key] for key in keys if isinstance(recipe.get(key), str)), None)
        if parent in remaining:
            return Chain(below, str(remaining[parent]), methods)
        if parent is None or parent not in recipes or parent in seen:
            return Chain(below, parent, methods)
        seen.add(parent)
        recipe, method = recipes[parent], parent


def find_origin(
    spec: StageSpec,
    recipes: dict[str, dict[str, Any]],
    remaining: dict[str, Path],
    texts: Iterable[str],
    offline: bool,
) -> tuple[Origin, list[Finding]]:
    """What a stage starts from, and what of it could not be looked at.

    Args:
        texts: of the stage's rows; a stand-in is trained on them where the tokenizer is made by an earlier stage whose
            own text is not here.
    """
    findings: list[Finding] = []
    origin = Origin()
    try:
        tokens = chain(spec, recipes, TOKENIZER_KEYS, remaining)
        if tokens.outside is None:
            origin = Origin(stand_in_tokenizer(tokens.recipes[0], texts), stand_in=True)
            findings.append(note("lengths are estimated: the tokenizer is not trained yet, and a stand-in counts"))
        else:
            origin = Origin(_from(tokens.outside, load_tokenizer, offline, findings))
        if origin.tokenizer is not None:
            new, found = inherit(origin.tokenizer, tokens, offline)
            origin, findings = replace(origin, new_tokens=tuple(new)), findings + found
        vocabulary = _whole(tokens.recipes[0], "vocab_size", 1024) if origin.stand_in else None
        for key, name in (("model_name_or_path", "model"), ("reward_model_path", "reward_model")):
            if name == "model" or spec.recipe.get(key):
                above = chain(spec, recipes, (key, "model_name_or_path"), remaining)
                found = find_model(above, origin.tokenizer, vocabulary, offline, findings)
                origin = replace(origin, **{name: found})
        if spec.recipe.get("reward_model_path"):
            found = reward_tokenizer(spec, recipes, remaining, origin, offline, findings)
            origin = replace(origin, reward_tokenizer=found)
    except UserError as mistake:
        findings += from_user_error(mistake)
    return origin, findings


def reward_tokenizer(
    spec: StageSpec,
    recipes: dict[str, dict[str, Any]],
    remaining: dict[str, Path],
    origin: Origin,
    offline: bool,
    findings: list[Finding],
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the stage's reward model: of its checkpoint, or as the recipes above it will leave it."""
    tokens = chain(spec, recipes, ("reward_model_path", *TOKENIZER_KEYS), remaining)
    if tokens.outside is None:
        found = copy.deepcopy(origin.tokenizer)
    else:
        found = _from(tokens.outside, load_tokenizer, offline, findings)
    if found is not None:
        inherit(found, tokens, offline)
    return found


def find_model(
    above: Chain,
    tokenizer: PreTrainedTokenizerBase | None,
    vocabulary: int | None,
    offline: bool,
    findings: list[Finding],
) -> PlannedModel | None:
    """The model that a stage starts from, or that an earlier one will have made; None where it is not known here.

    Args:
        vocabulary: tokens of the tokenizer to come; None: those of the one that is here.
    """
    earlier = above.recipes[:-1]
    if above.outside is not None:
        config = _from(above.outside, load_config, offline, findings)
        adapter = PeftConfig.from_pretrained(above.outside) if is_adapter(above.outside) else None
    else:
        config, adapter = _new_model(above.recipes[0], tokenizer, vocabulary), None
    if config is None:
        return None
    lora = next((recipe for recipe in earlier if recipe.get("use_peft")), None)
    if adapter is None and lora is not None:
        targets = lora.get("lora_target_modules") or "all-linear"
        adapter = LoraConfig(
            r=lora.get("lora_r", 16), target_modules=targets, task_type="CAUSAL_LM", trainable_token_indices=[0]
        )
    return PlannedModel(config, adapter)


def _new_model(recipe: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None, vocabulary: int | None):
    """The config of the model that a pretrain recipe makes; None of any other recipe, or without a tokenizer."""
    if tokenizer is None or "tokenizer_name_or_path" not in recipe:
        return None
    length = recipe.get("max_length") or tokenizer.model_max_length
    try:
        return new_config(recipe.get("model_config"), tokenizer, length, vocabulary or len(tokenizer))
    except ValueError as refused:
        raise UserError("model_config is no model", got=refused, fix="docs/model.md lists the options") from refused


def _from(name: str, load, offline: bool, findings: list[Finding]):
    """A tokenizer or config; None, with a note, where it would have to be fetched."""
    try:
        return load(name)
    except UserError:
        if not offline or is_path(name):
            raise
        what = f"not checked (offline): {name} is not in the local cache"
        if what not in [finding.what for finding in findings]:
            findings.append(note(what))
        return None


def stand_in_tokenizer(made: dict[str, Any], texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokenizer like the one that a recipe will make: its special tokens and template, with a rough vocabulary."""
    names = {field.name for field in fields(DataArguments)}
    with suppress(UserError):  # the tokenizer stage's own check says why
        texts = first_texts(DataArguments(**{key: made[key] for key in names & made.keys()}), STAND_IN_ROWS)
    size = max(min(_whole(made, "vocab_size", 1024), STAND_IN_VOCABULARY), SMALLEST_VOCABULARY)
    return train_tokenizer(texts, size, _whole(made, "model_max_length", 256), sample=True)


def inherit(tokenizer: PreTrainedTokenizerBase, tokens: Chain, offline: bool) -> tuple[list[str], list[Finding]]:
    """Apply, in place, what the recipes on the way set: template, eos and pad token; the tokens that are new."""
    findings: list[Finding] = []
    new: list[str] = []
    for method, recipe in zip(tokens.methods, tokens.recipes, strict=True):
        path = recipe.get("chat_template_path")
        if method == "sft":
            load = partial(make_chat_ready, tokenizer, pad_token=recipe.get("pad_token"))
            changes = (_from(path, load, offline, findings) if isinstance(path, str) else load(None)) or Changes()
            new += changes.new_tokens
            findings += [note(f"the tokenizer is a base model's: {change}") for change in changes.said]
        elif isinstance(path, str):
            _from(path, partial(take_template, tokenizer), offline, findings)
        for key in ("eos_token", "pad_token"):
            token = recipe.get(key)
            if isinstance(token, str) and token not in tokenizer.get_vocab():
                raise UserError(
                    f"{key} is no token of the tokenizer",
                    got=token,
                    expected="a token that is in its vocabulary",
                    fix=f"special tokens: {', '.join(tokenizer.all_special_tokens)}",
                )
            if isinstance(token, str):
                setattr(tokenizer, key, token)
    return new, findings


def _whole(recipe: dict[str, Any], key: str, default: int) -> int:
    return recipe[key] if isinstance(recipe.get(key), int) else default
