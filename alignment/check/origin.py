"""Find the tokenizer and model that a stage will start from, before anything is trained."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peft import LoraConfig

from alignment.check.findings import Finding, from_user_error, note, warning
from alignment.check.material import Origin, PlannedModel, first_texts
from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.checkpoints import is_adapter, is_path
from alignment.models.examined.adapter_settings import load_adapter_settings
from alignment.models.generation import other_token_ids
from alignment.models.loading import load_config, load_tokenizer
from alignment.pipeline.graph import Pipeline
from alignment.pipeline.recipes.pipeline_file import PIPELINE_FILE, read_settings, stage_files
from alignment.pipeline.recipes.recipe import PLACEHOLDER, fill_inputs, placeholders, read_recipe
from alignment.pipeline.stage_spec import StageSpec, method_of
from alignment.stages import STAGES, TOKENIZER
from alignment.stages.pretrain import new_config
from alignment.tokenization.base import Changes, make_chat_ready, take_template
from alignment.tokenization.train import SMALLEST_VOCABULARY, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

Loaded = TypeVar("Loaded")
logger = logging.getLogger(__name__)

TOKENIZER_KEYS = ("tokenizer_name_or_path", "model_name_or_path")
STAND_IN_VOCABULARY = 4096
# Rows that a stand-in tokenizer is trained on.
STAND_IN_ROWS = 300


@dataclass(frozen=True)
class Ancestry:
    """The recipes from the first parent of a tokenizer or model down to a stage's own recipe.

    Attributes:
        recipes: the recipes, first parent first.
        outside: the checkpoint (path or hub id) that the first recipe starts from; None: from random weights.
        methods: the stage of each recipe.
    """

    recipes: list[dict[str, Any]]
    outside: str | None
    methods: list[str]


def recipes_of(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Return the recipes of a pipeline's stages by name; for a single stage also those of its pipeline.yaml.

    A single stage may need fewer inputs than its pipeline: inputs that were not given remain `${name}`.
    """
    recipes: dict[str, dict[str, Any]] = {}
    if (pipeline.recipe_dir / PIPELINE_FILE).is_file():
        for name, file in stage_files(read_settings(pipeline.recipe_dir), pipeline.recipe_dir).items():
            recipe = read_recipe(file)
            unfilled = {key: f"${{{key}}}" for key in placeholders(recipe)}
            recipes[name] = fill_inputs(recipe, unfilled | pipeline.inputs, str(file))
    return recipes | {spec.name: spec.recipe for spec in pipeline.stages}


def ancestry(
    spec: StageSpec, recipes: dict[str, dict[str, Any]], keys: Sequence[str], remaining: dict[str, Path]
) -> Ancestry:
    """Follow a stage's parents up, to an existing checkpoint or to a recipe without a parent.

    Args:
        keys: the recipe keys that name the parent; the first key that is set counts.
        remaining: the stages whose checkpoint exists and is kept, with its path.
    """
    below: list[dict[str, Any]] = []
    methods: list[str] = []
    recipe, method, seen = spec.recipe, spec.method, {spec.name}
    while True:
        below.insert(0, recipe)
        methods.insert(0, method)
        parent = next((recipe[key] for key in keys if isinstance(recipe.get(key), str)), None)
        if parent in remaining:
            return Ancestry(below, str(remaining[parent]), methods)
        if parent is None or parent not in recipes or parent in seen:
            return Ancestry(below, parent, methods)
        seen.add(parent)
        recipe, method = recipes[parent], method_of(parent) or parent


def find_origin(
    spec: StageSpec,
    recipes: dict[str, dict[str, Any]],
    remaining: dict[str, Path],
    texts: Iterable[str],
    offline: bool,
) -> tuple[Origin, list[Finding]]:
    """Return the tokenizer and models that a stage starts from, and findings about those that could not be read.

    Args:
        texts: texts of the stage's rows, to train a stand-in tokenizer on if the tokenizer is trained by an earlier
            stage whose own text is not available.
    """
    findings: list[Finding] = []
    origin = Origin()
    try:
        tokens = ancestry(spec, recipes, TOKENIZER_KEYS, remaining)
        if STAGES[spec.method].checkpoint == TOKENIZER and spec.name in remaining:
            tokens = replace(tokens, outside=str(remaining[spec.name]))
        if tokens.outside is None:
            origin = Origin(stand_in_tokenizer(tokens.recipes[0], texts), stand_in=True)
            counted = "a tokenizer trained on the first rows counts, as the stage's own does not exist yet"
            findings.append(note(f"lengths are estimated: {counted}"))
        else:
            origin = Origin(load_or_note(tokens.outside, load_tokenizer, offline, findings))
            findings += other_ids(tokens.outside, origin.tokenizer)
        if origin.tokenizer is not None:
            new, found = inherit(origin.tokenizer, tokens, offline)
            origin, findings = replace(origin, new_tokens=tuple(new)), findings + found
        vocabulary = _integer(tokens.recipes[0], "vocab_size", 1024) if origin.stand_in else None
        above = ancestry(spec, recipes, ("model_name_or_path",), remaining)
        origin = replace(origin, model=find_model(above, origin.tokenizer, vocabulary, offline, findings))
        if spec.recipe.get("reward_model_path"):
            above = ancestry(spec, recipes, ("reward_model_path", "model_name_or_path"), remaining)
            origin = replace(origin, reward_model=find_model(above, origin.tokenizer, vocabulary, offline, findings))
            tokenizer = reward_tokenizer(spec, recipes, remaining, origin, offline, findings)
            origin = replace(origin, reward_tokenizer=tokenizer)
    except UserError as mistake:
        findings += from_user_error(mistake)
    return origin, findings


def find_asked(
    spec: StageSpec, key: str, recipes: dict[str, dict[str, Any]], remaining: dict[str, Path], offline: bool
) -> tuple[PreTrainedTokenizerBase, PlannedModel] | None:
    """Return the tokenizer and the model of a judge or critic; None if they are not known before training.

    Args:
        key: the recipe key that names the model.
    """
    tokens = ancestry(spec, recipes, (key, *TOKENIZER_KEYS), remaining)
    if spec.recipe.get(key) is None or tokens.outside is None:
        return None
    with suppress(UserError):  # other checks report a checkpoint that cannot be read
        tokenizer = load_or_note(tokens.outside, load_tokenizer, offline, [])
        if tokenizer is not None:
            inherit(tokenizer, tokens, offline)
            model = find_model(
                ancestry(spec, recipes, (key, "model_name_or_path"), remaining), tokenizer, None, offline, []
            )
            return None if model is None or tokenizer.chat_template is None else (tokenizer, model)
    return None


def other_ids(checkpoint: str, tokenizer: PreTrainedTokenizerBase | None) -> list[Finding]:
    """Report a foreign model whose config.json names other end or start tokens than its tokenizer.

    An adapter's base is reported when the adapter is trained.
    """
    folder = Path(checkpoint).expanduser()
    if tokenizer is None or not (folder / "config.json").is_file() or is_adapter(checkpoint):
        return []
    found = [*other_token_ids(load_config(checkpoint), tokenizer)]
    if not found:
        return []
    return [
        warning(
            "config.json and the tokenizer of the model name different tokens",
            got="; ".join(found),
            expected="the same tokens: training uses the tokenizer's, and replies end at either end token",
            fix=f"if those of {folder}/config.json are mistaken, correct them there and in generation_config.json",
        )
    ]


def reward_tokenizer(
    spec: StageSpec,
    recipes: dict[str, dict[str, Any]],
    remaining: dict[str, Path],
    origin: Origin,
    offline: bool,
    findings: list[Finding],
) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of the stage's reward model: its checkpoint's, or the one that its recipes will produce."""
    tokens = ancestry(spec, recipes, ("reward_model_path", *TOKENIZER_KEYS), remaining)
    if tokens.outside is None:
        found = copy.deepcopy(origin.tokenizer)
    else:
        found = load_or_note(tokens.outside, load_tokenizer, offline, findings)
    if found is not None:
        inherit(found, tokens, offline)
    return found


def find_model(
    above: Ancestry,
    tokenizer: PreTrainedTokenizerBase | None,
    vocabulary: int | None,
    offline: bool,
    findings: list[Finding],
) -> PlannedModel | None:
    """Return the model that a stage starts from, or that an earlier stage will produce; None if it is not known.

    Args:
        vocabulary: size of the future tokenizer; None: that of `tokenizer`.
    """
    earlier = above.recipes[:-1]
    if above.outside is not None:
        config = load_or_note(above.outside, load_config, offline, findings)
        known = config is not None and is_adapter(above.outside)
        adapter = load_adapter_settings(above.outside) if known else None
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


def _new_model(
    recipe: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None, vocabulary: int | None
) -> PreTrainedConfig | None:
    """Return the config of a pretrain recipe's model; None for other recipes, or without a tokenizer."""
    if tokenizer is None or "tokenizer_name_or_path" not in recipe:
        return None
    length = recipe.get("max_length") or tokenizer.model_max_length
    try:
        return new_config(recipe.get("model_config"), tokenizer, length, vocabulary or len(tokenizer))
    except ValueError as refused:
        raise UserError(
            "model_config does not describe a model", got=refused, fix="docs/model.md lists the options"
        ) from refused


def load_or_note(name: str, load: Callable[[str], Loaded], offline: bool, findings: list[Finding]) -> Loaded | None:
    """Load a tokenizer, config or template; return None and add a note if it is not known, or not to be fetched."""
    if given := PLACEHOLDER.search(name):
        what = f"not checked: the input {given[1]}, from which an earlier stage starts, was not given"
    else:
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
    """Train a substitute for a recipe's future tokenizer: same special tokens and template, approximate vocabulary."""
    names = {field.name for field in fields(DataArguments)}
    with suppress(UserError):  # the check of the tokenizer stage reports it
        texts = first_texts(DataArguments(**{key: made[key] for key in names & made.keys()}), STAND_IN_ROWS)
    size = max(min(_integer(made, "vocab_size", 1024), STAND_IN_VOCABULARY), SMALLEST_VOCABULARY)
    return train_tokenizer(texts, size, _integer(made, "model_max_length", 256), sample=True)


def inherit(tokenizer: PreTrainedTokenizerBase, tokens: Ancestry, offline: bool) -> tuple[list[str], list[Finding]]:
    """Apply the template, eos and pad tokens that the recipes set, in place.

    Returns:
        The tokens that a recipe adds, and findings.
    """
    findings: list[Finding] = []
    new: list[str] = []
    for method, recipe in zip(tokens.methods, tokens.recipes, strict=True):
        path = recipe.get("chat_template_path")
        if STAGES[method].starts_from_base:
            load = partial(make_chat_ready, tokenizer, pad_token=recipe.get("pad_token"))
            found = load_or_note(path, load, offline, findings) if isinstance(path, str) else load(None)
            changes = found or Changes()
            new += changes.new_tokens
            findings += [note(f"the tokenizer belongs to a base model: {change}") for change in changes.said]
        elif isinstance(path, str):
            load_or_note(path, partial(take_template, tokenizer), offline, findings)
        for key in ("eos_token", "pad_token"):
            token = recipe.get(key)
            if isinstance(token, str) and token not in tokenizer.get_vocab():
                raise UserError(
                    f"{key} is not a token of the tokenizer",
                    got=token,
                    expected="a token of its vocabulary",
                    fix=f"special tokens: {', '.join(tokenizer.all_special_tokens)}",
                )
            if isinstance(token, str):
                setattr(tokenizer, key, token)
    return new, findings


def _integer(recipe: dict[str, Any], key: str, default: int) -> int:
    """Return a recipe's value if it is an integer, otherwise the default."""
    return recipe[key] if isinstance(recipe.get(key), int) else default
