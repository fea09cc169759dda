"""The tokenizer and model that a stage will start from, found before anything has been trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.check.findings import Finding, from_user_error, note
from alignment.check.material import Origin
from alignment.errors import UserError
from alignment.models.loading import is_path, load_config, load_tokenizer
from alignment.pipeline.graph import PIPELINE_FILE, Pipeline, StageSpec, read_settings
from alignment.pipeline.recipe import read_recipe
from alignment.tokenization.train import SMALLEST_VOCABULARY, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENIZER_KEYS = ("tokenizer_name_or_path", "model_name_or_path")
STAND_IN_VOCABULARY = 4096


@dataclass(frozen=True)
class Chain:
    """The recipes from where a tokenizer comes from down to a stage's own, and the path or hub id above them."""

    recipes: list[dict[str, Any]]
    outside: str | None


def recipes_of(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """The recipes of a pipeline's stages by name; of a stage alone those of the pipeline.yaml beside it too."""
    recipes: dict[str, dict[str, Any]] = {}
    if (pipeline.recipe_dir / PIPELINE_FILE).is_file():
        stages = read_settings(pipeline.recipe_dir).stages
        recipes = {name: read_recipe(pipeline.recipe_dir / file) for name, file in stages.items()}
    return recipes | {spec.name: spec.recipe for spec in pipeline.stages}


def chain(spec: StageSpec, recipes: dict[str, dict[str, Any]], keys: Sequence[str], standing: dict[str, Path]) -> Chain:
    """Follow a stage's parents up, to a checkpoint that is there or to a recipe that starts from nothing.

    Args:
        keys: the recipe keys that name the parent, the first that is set counts.
        standing: stages whose checkpoint is there and stays.
    """
    below, recipe, seen = [], spec.recipe, {spec.name}
    while True:
        below.insert(0, recipe)
        parent = next((recipe[key] for key in keys if isinstance(recipe.get(key), str)), None)
        if parent in standing:
            return Chain(below, str(standing[parent]))
        if parent is None or parent not in recipes or parent in seen:
            return Chain(below, parent)
        seen.add(parent)
        recipe = recipes[parent]


def find_origin(
    spec: StageSpec,
    recipes: dict[str, dict[str, Any]],
    standing: dict[str, Path],
    texts: Iterable[str],
    offline: bool,
) -> tuple[Origin, list[Finding]]:
    """What a stage starts from, and what of it could not be looked at.

    Args:
        texts: of the stage's rows; a stand-in is trained on them where the tokenizer is made by an earlier stage.
    """
    findings: list[Finding] = []
    tokens, model = (chain(spec, recipes, keys, standing) for keys in (TOKENIZER_KEYS, ("model_name_or_path",)))
    stand_in = tokens.outside is None
    tokenizer = config = None
    try:
        if stand_in:
            tokenizer = stand_in_tokenizer(tokens.recipes, texts)
            findings.append(note("lengths are estimated: the tokenizer is not trained yet, and a stand-in counts"))
        else:
            tokenizer = _from(tokens.outside, load_tokenizer, offline, findings)
        if tokenizer is not None:
            findings += inherit(tokenizer, tokens.recipes, offline)
        if model.outside is not None:
            config = _from(model.outside, load_config, offline, findings)
    except UserError as mistake:
        findings += from_user_error(mistake)
    return Origin(tokenizer, stand_in, context_of(config, model.recipes, tokenizer), config), findings


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


def stand_in_tokenizer(recipes: list[dict[str, Any]], texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokenizer like the one to be made: its special tokens and template, with a rough vocabulary."""
    made = recipes[0]
    wanted = made["vocab_size"] if isinstance(made.get("vocab_size"), int) else 1024
    length = made["model_max_length"] if isinstance(made.get("model_max_length"), int) else 256
    size = max(min(wanted, STAND_IN_VOCABULARY), SMALLEST_VOCABULARY)
    return train_tokenizer(texts, size, length, sample=True)


def inherit(tokenizer: PreTrainedTokenizerBase, recipes: list[dict[str, Any]], offline: bool) -> list[Finding]:
    """Apply, in place, what the recipes on the way set: template, eos and pad token."""
    findings: list[Finding] = []
    for recipe in recipes:
        if isinstance(path := recipe.get("chat_template_path"), str):
            if Path(path).is_file() and path.endswith((".jinja", ".j2")):
                tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
            else:
                other = _from(path, load_tokenizer, offline, findings)
                tokenizer.chat_template = other.chat_template if other is not None else None
        for key in ("eos_token", "pad_token"):
            token = recipe.get(key)
            if isinstance(token, str) and token not in tokenizer.get_vocab():
                raise UserError(
                    f"{key} is no token of the tokenizer",
                    got=token,
                    needed="a token that is in its vocabulary",
                    mend=f"special tokens: {', '.join(tokenizer.all_special_tokens)}",
                )
            if isinstance(token, str):
                setattr(tokenizer, key, token)
    return findings


def context_of(config, recipes: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase | None) -> int | None:
    """Positions of the model: of its config, else as the pretrain stage will make it."""
    if config is not None:
        return getattr(config.get_text_config(), "max_position_embeddings", None)
    made = recipes[0]
    if "tokenizer_name_or_path" not in made:
        return None  # a model that could not be looked at
    shape = made.get("model_config") or {}
    length = made.get("max_length") or (tokenizer.model_max_length if tokenizer else None)
    return shape.get("max_position_embeddings", length)
