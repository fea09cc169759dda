"""Run eval suites on a checkpoint: `evaluate` for one suite in one format, `evaluate_many` for several."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.unwritable import require_writable
from alignment.errors import UserError
from eval.conditions.chat_template import possible_formats, reply_ends, with_template
from eval.conditions.eval_options import require_options
from eval.conditions.left_out import leave_out, note
from eval.conditions.said_once import said_once
from eval.conditions.suite_identity import require_not_other_suites, suite_source
from eval.harness.store import (
    checkpoint_digest,
    require_not_others,
    run_name,
    save_run,
    template_digest,
    tokenizer_digest,
    versions,
)

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from eval.endpoint.endpoint_lm import EndpointLM
    from eval.harness.lm import CausalLM
    from eval.harness.suite import Suite

logger = logging.getLogger(__name__)
LoadedModel = tuple["PreTrainedModel", "PreTrainedTokenizerBase"]


def evaluate(
    checkpoint: str | Path,
    suite: str,
    format: str,
    output_dir: str | Path,
    *,
    stage: str | None = None,
    parent: str | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    seed: int = 0,
    suite_args: dict | None = None,
    variant: dict | None = None,
    loaded: LoadedModel | None = None,
    too_long: str = "skip",
    chat_template: str | None = None,
) -> dict:
    """Run one suite in one format on a checkpoint; write run.json and items.parquet to `output_dir`.

    Args:
        checkpoint: folder (full model or adapter) or hub id.
        suite: name of one of the project's suites, path of lm-eval YAML or of a JSONL file of questions, or
            `lm_eval:TASK`; options follow as a query (`gsm8k?data=FILE`).
        format: plain (the prompt as text) or chat (the prompt as the user's turn of the tokenizer's chat template).
        output_dir: the run's own folder.
        stage: name of the checkpoint's stage, stored in the record.
        parent: name of the parent's stage, stored in the record.
        num_fewshot: examples before each item; None for the suite's own number.
        batch_size: rows per batch. Greedy scores do not depend on it; sampled scores do, through the order of draws.
        limit: items per task, from the first; None for all.
        seed: seed of few-shot examples and sampled replies.
        suite_args: options of the suite's data (for tinyworld, fields of `WorldConfig`, and `split`).
        variant: the options that set the run apart from other runs of its stage, suite and format; stored in the
            record. Only runs with the same variant are compared.
        loaded: the checkpoint's (model, tokenizer), if the caller has loaded them; used on their device. Afterwards the
            model's modes and the random states of python, numpy and torch are restored.
        too_long: what to do about items that do not fit into the model's context with their reply: `skip` leaves them
            out of the scores and counts them (`left_out` in the record, and a warning); `refuse` raises.
        chat_template: the chat format's template if it is not the tokenizer's own: a Jinja file, or the checkpoint
            (folder or hub id) of another model or adapter. Replies then also end where this template ends a turn.

    Returns:
        The record in run.json.

    Raises:
        UserError: no such checkpoint, suite or format; no chat template; no item fits into the context; an option is
            out of range, or the output folder cannot be written.
    """
    from eval.harness.suite import load_suite

    options = {"batch_size": batch_size, "limit": limit, "seed": seed, "num_fewshot": num_fewshot}
    require_options(**options, suite_args=suite_args, too_long=too_long)
    require_writable(output_dir)
    started = time.perf_counter()
    with random_states_kept():
        loaded_suite = load_suite(suite, format, num_fewshot=num_fewshot, suite_args=suite_args)
        model, tokenizer = loaded or load_checkpoint(checkpoint)
        tokenizer, chat_template = _asked_in(tokenizer, chat_template if format == "chat" else None)
        possible_formats([format], tokenizer, checkpoint)
        settings = {"num_fewshot": num_fewshot, "limit": limit, "batch_size": batch_size, "too_long": too_long}
        settings |= {"chat_template": chat_template}
        record = {
            "run_id": run_name(stage or Path(checkpoint).name, loaded_suite.name, format, variant or {}),
            "suite": loaded_suite.name,
            "suite_source": suite_source(suite),
            "format": format,
            "variant": variant or {},
            "stage": stage,
            "parent": parent,
            "checkpoint": str(checkpoint),
            "settings": settings | {"suite_args": suite_args or {}},
            "seeds": {"fewshot": seed, "sampling": seed},
        }
        items, figures = _measure(record, loaded_suite, model, tokenizer)
    for line in note(record | figures):
        logger.warning(line)
    record |= figures | {"seconds": round(time.perf_counter() - started, 2)}
    return save_run(output_dir, record, items)


@said_once()
def evaluate_many(
    checkpoint: str | Path,
    suites: list[str],
    formats: list[str],
    output_dir: str | Path,
    *,
    stage: str,
    variant: dict | None = None,
    **options: Any,
) -> list[dict]:
    """Run several suites in several formats on a checkpoint, which is loaded once.

    Args:
        checkpoint: folder or hub id.
        suites: as for `evaluate`; a suite that is named twice runs once.
        formats: formats that a suite lacks are skipped (tinyworld_bpb has no chat format), and so is the chat format,
            with a warning, if the checkpoint has no chat template and another format was requested too.
        output_dir: folder of the runs; each run is written to its subfolder `STAGE-SUITE-FORMAT[-VARIANT]`.
        stage: name of the checkpoint's stage.
        variant: as for `evaluate`.
        options: further keyword arguments of `evaluate`. With a `chat_template` that is not the checkpoint's own, the
            chat runs are a variant of that template.

    Returns:
        The records of the runs, in the order of the suites.

    Raises:
        UserError: as for `evaluate`; two suites have the same name; a run's folder holds a run of another checkpoint
            or suite.
    """
    from alignment.models.checkpoints import require_checkpoint
    from alignment.models.loading import load_tokenizer
    from eval.harness.suite import require_format, suite_formats

    require_options(**options)
    suites = list(dict.fromkeys(suites))
    for suite in suites:
        if not set(formats) & set(suite_formats(suite)):
            require_format(suite, formats[0])
    require_writable(output_dir)
    if not options.get("loaded"):
        require_checkpoint(checkpoint)
    tokenizer = options["loaded"][1] if options.get("loaded") else load_tokenizer(checkpoint)
    asked, template = _asked_in(tokenizer, options.get("chat_template") if "chat" in formats else None)
    variants = {format: variant or {} for format in formats}
    if template:
        variants["chat"] = variants["chat"] | {"chat_template": str(template_digest(asked))[:8]}
    runs = [
        (suite, format)
        for suite in suites
        for format in possible_formats([one for one in formats if one in suite_formats(suite)], asked, checkpoint)
    ]
    folders = run_folders(checkpoint, stage, runs, variants, output_dir)
    options["loaded"] = options.get("loaded") or load_checkpoint(checkpoint)
    return [
        evaluate(checkpoint, suite, format, folder, stage=stage, variant=variants[format], **options)
        for (suite, format), folder in zip(runs, folders, strict=True)
    ]


def run_folders(
    checkpoint: str | Path, stage: str, runs: list[tuple[str, str]], variants: dict[str, dict], output_dir: str | Path
) -> list[Path]:
    """The folders of runs: `OUTPUT_DIR/STAGE-SUITE-FORMAT[-VARIANT]`.

    Args:
        checkpoint: as stored in the records.
        runs: (suite as given, format) of each run.
        variants: format -> the options that set its runs apart.

    Raises:
        UserError: two suites have the same name; a folder holds a run of another checkpoint or suite.
    """
    from eval.harness.suite import suite_name

    names = [run_name(stage, suite_name(suite), format, variants[format]) for suite, format in runs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(
            "Two suites have the same name.",
            got=", ".join(twice),
            fix="rename a file, or run them separately, each with its own --output_dir",
        )
    folders = [Path(output_dir) / name for name in names]
    require_not_others(folders, checkpoint, stage)
    require_not_other_suites([(folder, *run) for folder, run in zip(folders, runs, strict=True)])
    return folders


def load_checkpoint(checkpoint: str | Path) -> LoadedModel:
    """Load a checkpoint (full model or adapter) and its tokenizer, on the GPU if available.

    Raises:
        UserError: there is no such checkpoint.
    """
    from alignment.models.loading import load_causal_lm

    model, tokenizer = load_causal_lm(checkpoint)
    return model.to(this_device()), tokenizer


def this_device() -> str:
    """`cuda` if a GPU is available, otherwise `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _asked_in(tokenizer: PreTrainedTokenizerBase, source: str | None) -> tuple[PreTrainedTokenizerBase, str | None]:
    """(the tokenizer with a source's chat template, the source), or (the tokenizer, None) if that changes nothing."""
    asked = with_template(tokenizer, source) if source else tokenizer
    return (tokenizer, None) if asked.chat_template == tokenizer.chat_template else (asked, source)


def _measure(
    record: dict, suite: Suite, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[pandas.DataFrame, dict]:
    """Run lm-eval; return the item rows, and the record's entries about checkpoint, suite and figures."""
    from eval.harness.lm import CausalLM
    from eval.harness.suite import quiet_lm_eval

    with _evaluating(model), quiet_lm_eval():
        settings = record["settings"]
        ends = reply_ends(tokenizer) if settings["chat_template"] else ([], [])
        asking = {"too_long": settings["too_long"], "ends": ends}
        asking["with_examples"] = [name for name, task in suite.tasks.items() if task.config.num_fewshot]
        lm = CausalLM(model, tokenizer, settings["batch_size"], **asking)
        set_seeds(suite, record["seeds"]["sampling"])
        items, figures = run_tasks(suite, lm, record["format"], settings["limit"])
    return items, {
        "checkpoint_digest": checkpoint_digest(record["checkpoint"]),
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "template_digest": template_digest(tokenizer),
        **figures,
    }


def run_tasks(suite: Suite, lm: CausalLM | EndpointLM, format: str, limit: int | None) -> tuple[pandas.DataFrame, dict]:
    """Run a suite's tasks through lm-eval.

    Args:
        lm: with `context` (tokens, or None if unknown), and after the run `replies` and `skipped`.
        limit: items per task; None for all.

    Returns:
        The item rows, and the record's entries about suite and figures.
    """
    import lm_eval

    from eval.harness.items import collect_items, require_figures, summarise
    from eval.harness.suite import quiet_lm_eval, suite_digest
    from eval.suite_rows.row_checks import failures_named

    chat = format == "chat"
    with quiet_lm_eval(), failures_named(suite.tasks.values()):
        results = lm_eval.evaluate(
            lm,
            {"tasks": suite.tasks, "groups": suite.groups},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        left_out = leave_out(results, suite, lm.skipped)
        items = collect_items(results["samples"], suite, lm.replies)
        figures = summarise(items, results, suite)
        require_figures(figures, suite, left_out)
        digest = suite_digest(suite)
    return items, {
        "suite_digest": digest,
        "versions": versions(),
        "context": lm.context,
        "left_out": left_out,
        "tasks": figures,
    }


def set_seeds(suite: Suite, seed: int) -> None:
    """Seed python, numpy, torch and the few-shot examples of a suite's tasks."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    for task in suite.tasks.values():
        task.set_fewshot_seed(seed)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states of python, numpy and torch on exit, because lm-eval and `datasets` draw numbers too."""
    import numpy
    import torch

    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Set evaluation mode without gradients; restore each module's mode on exit."""
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
