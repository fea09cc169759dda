"""Recipes with odd keys and values: findings of `align check`, or a refusal."""

import contextlib
import dataclasses
import importlib
import io
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from check_cases import KIND_OF, Case
from fuzzing import NUMBERS, SCALARS, TEXTS, VALUES, fuzz, outcome
from hypothesis import given
from hypothesis import strategies as st

from alignment.check.findings import has_errors
from alignment.check.material import Options
from alignment.check.run import check_stages, merged
from alignment.estimate.compute import this_device
from alignment.pipeline.graph import load_stage

STAGES = sorted(KIND_OF)
PATHS = ("model_name_or_path", "dataset_name", "output_dir", "reward_model_path", "ref_model", "logging_dir")
# Values that some key takes, for the keys that do not.
NEAR_MISSES = st.sampled_from(
    ["cosine", "adamw_torch", "bfloat16", "float8", "sdpa", "exact", "steps", "all-linear", "yes"]
)


@cache
def keys_of(stage: str) -> dict[str, str]:
    """The stage's keys except paths, each with its type as written."""
    configs = importlib.import_module(f"alignment.stages.{stage}").CONFIGS
    fields = {field.name: str(field.type) for config in configs for field in dataclasses.fields(config)}
    return {name: fields[name] for name in sorted(fields) if name not in PATHS}


def values_of(hint: str) -> st.SearchStrategy:
    """Values of the key's type, mostly: those of another type are refused by the same few lines."""
    fitting = [NEAR_MISSES, TEXTS] if "str" in hint else []
    fitting += [st.integers(-2, 9), NUMBERS] if "int" in hint or "float" in hint else []
    fitting += [st.floats(-0.5, 1.5)] if "float" in hint else []
    fitting += [st.booleans()] if "bool" in hint else []
    fitting += [st.lists(st.one_of(NEAR_MISSES, SCALARS), max_size=2)] if "list" in hint else []
    fitting += [st.dictionaries(TEXTS, SCALARS, max_size=2)] if "dict" in hint else []
    return st.one_of(*fitting * 3, SCALARS, VALUES)


@st.composite
def recipes(draw) -> tuple[str, dict]:
    """A stage, and up to three keys with other values."""
    stage = draw(st.sampled_from(STAGES))
    known = keys_of(stage)
    names = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3, unique=True))
    keys = {name: draw(values_of(known[name])) for name in names}
    if not draw(st.integers(0, 5)):
        keys |= draw(st.dictionaries(st.one_of(st.sampled_from(PATHS), TEXTS), SCALARS, max_size=1))
    return stage, keys


def check_recipe(stage: str, keys: dict) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        case = Case(Path(folder, "case"), stage=stage)
        file = case.write()
        recipe = yaml.safe_load(file.read_text()) | keys
        file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
        pipeline = outcome(lambda: load_stage(stage, str(file), [], str(Path(folder, "runs", stage))))
        if pipeline is None:
            return
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            checks = outcome(lambda: check_stages(pipeline, {}, options=Options(20), device=this_device()))
        if checks is not None and not has_errors(merged(checks)):
            assert all(check.material is not None for check in checks), "a stage without findings was not looked at"


@fuzz(60)
@given(recipes())
def test_a_recipe_is_checked_or_refused(recipe):
    check_recipe(*recipe)


@pytest.mark.slow
@fuzz(5000)
@given(recipes())
def test_many_recipes_are_checked_or_refused(recipe):
    check_recipe(*recipe)
