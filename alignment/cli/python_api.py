"""The Python API: the verbs that a notebook needs, as functions.

    from alignment import load, run_stage, evaluate, compare

They do what `align STAGE`, `align eval` and `align compare` do, with the same checks, records and files.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError, nearest
from alignment.stages import STAGES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Suites = str | Path | Sequence[str | Path]


def load(checkpoint: str | Path, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer for inference; an adapter is merged into its base.

    Args:
        checkpoint: the folder of a model or an adapter, or a hub id.
        options: keyword arguments of `from_pretrained`, such as dtype.
    """
    from alignment.models.loading import load_causal_lm

    return load_causal_lm(str(checkpoint), **options)


def run_stage(stage: str, recipe: str | Path | None = None, **options: Any) -> Path:
    """Run a stage as `align STAGE` does, unless its result is up to date, and return its checkpoint's folder.

    Args:
        stage: sft, dpo, or another stage.
        recipe: the recipe's file. Without a recipe, `model`, `data` and `lora` take its place (docs/lora.md).
        options: the options of `align STAGE` (output_dir, seed, fresh, quick, ...), and recipe keys
            (learning_rate=1e-4; nested keys as a mapping).

    Raises:
        UserError: as the command line, which prints it.
    """
    from alignment.cli.train import stage as verb
    from alignment.cli.train.one_line import REPEATED
    from alignment.pipeline.stopping import parse_duration
    from alignment.yaml_text import write_yaml

    if stage not in STAGES:
        near = nearest(stage, STAGES)
        fix = f"did you mean {near[0]!r}?" if near else None
        raise UserError(f"no stage {stage!r}", expected=", ".join(STAGES), fix=fix)
    parser = argparse.ArgumentParser(prog=f"align {stage}")
    verb.add_arguments(parser)
    args = parser.parse_args([] if recipe is None else [str(recipe)])
    options = {name: plain(value) for name, value in options.items() if value is not None or not hasattr(args, name)}
    own = {name: value for name, value in options.items() if hasattr(args, name) and name != "overrides"}
    for name, value in own.items():
        flag = getattr(args, name) is False
        if flag != isinstance(value, bool):
            expected = "True or False" if flag else "a value, not True or False"
            raise UserError(f"{name} cannot take this value", got=repr(value), expected=expected)
        setattr(args, name, [value] if name in REPEATED and isinstance(value, str) else value)
    args.max_time = None if args.max_time is None else str(args.max_time)
    keys = {name: value for name, value in options.items() if name not in own}
    args.verb, args.overrides = stage, [f"--{key}={write_yaml(value)}" for key, value in keys.items()]
    seconds = parse_duration(args.max_time)
    pipeline, begin = verb.load(args)
    verb.run(pipeline, begin, seconds, args)
    return pipeline.run_dir / pipeline.stages[0].name / pipeline.stages[0].facts.product


def plain(value: Any) -> Any:
    """Return a value as a recipe writes it: paths as text, numbers of numpy and torch as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def evaluate(
    checkpoint: str | Path,
    suite: Suites,
    format: str = "both",
    *,
    limit: int | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Run eval suites on a checkpoint as `align eval` does, and return the records of the runs.

    Args:
        checkpoint: the folder of a model or an adapter, or a hub id.
        suite: a suite, or several: names, paths of lm-eval YAML or of JSONL files of questions, or `lm_eval:TASK`.
        format: plain, chat or both.
        limit: items per task, from the first; None for all.
        options: further keyword arguments of `eval.evaluate`: batch_size, num_fewshot, chat_template, ...
    """
    from alignment.cli.evaluate.eval import variant_of
    from eval.harness.place import place_of
    from eval.harness.run_suite import evaluate_many

    place = place_of(checkpoint)
    return evaluate_many(
        str(checkpoint),
        _suites(suite),
        _formats(format),
        place.folder,
        stage=place.stage,
        variant=variant_of(options | {"limit": limit}, place.seed),
        **({"seed": place.seed, "parent": place.parent, "limit": limit} | options),
    )


def compare(
    a: str | Path,
    *b: str | Path,
    suite: Suites = (),
    format: str | None = None,
    limit: int | None = None,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """Compare checkpoints with the first, paired by item, as `align compare` does.

    Args:
        a, b: checkpoints, folders of eval runs, or hub ids.
        suite: suites to compare; checkpoints without a run of a suite are evaluated first. Default: all that both have.
        format: plain, chat or both, for evaluations that run first.
        limit: items per task, for evaluations that run first.
        batch_size: rows per batch, for evaluations that run first.

    Returns:
        A row per task, format and metric: delta = b - a, its 95% interval, p and a verdict (docs/comparing.md).

    Raises:
        UserError: nothing can be compared.
    """
    from alignment.cli.evaluate.compare import compared

    if mistaken := next((other for other in b if not isinstance(other, str | Path)), None):
        raise UserError("compare takes checkpoints one by one", got=repr(mistaken), fix="compare(a, *others)")
    options: dict[str, Any] = {
        "formats": None if format is None else _formats(format),
        "limit": limit,
        "batch_size": batch_size,
    }
    return compared(str(a), [str(other) for other in b], _suites(suite), **options)[0]


def _suites(suite: Suites) -> list[str]:
    return [str(suite)] if isinstance(suite, str | Path) else [str(name) for name in suite]


def _formats(format: str) -> list[str]:
    if format not in ("plain", "chat", "both"):
        raise UserError("no such format", got=repr(format), expected="plain, chat or both")
    return ["plain", "chat"] if format == "both" else [format]
