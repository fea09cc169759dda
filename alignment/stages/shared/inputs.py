"""Inputs of a trainer stage: rows, and the options for loading its model."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase, Trainer
from trl import ModelConfig, get_quantization_config

from alignment.data.arguments import DataArguments
from alignment.data.preparing.filters import row_lengths
from alignment.data.preparing.load import prepare
from alignment.data.tokenizing.encoding import encode_rows, row_tokens
from alignment.data.tokenizing.length_advice import RowLength, length_fix
from alignment.durable.atomic import write_text
from alignment.durable.unwritable import make_folder
from alignment.errors import UserError
from alignment.models.context_length import context_length
from alignment.models.loading import load_config
from alignment.redaction import redact_text
from eval.harness.suite import item_texts

logger = logging.getLogger(__name__)
ACCOUNT = "data.json"


def load_data(
    data: DataArguments,
    kind: str,
    seed: int,
    stage_dir: Path,
    *,
    keep: Sequence[str] | None = (),
    held_out: Mapping[str, str] | None = None,
    account: str = ACCOUNT,
) -> DatasetDict:
    """Return the stage's rows by split, and write the account of every row to the stage's folder."""
    with PartialState().main_process_first():  # the other processes read the rows from the cache
        prepared = prepare(data, kind, seed, keep, eval_texts(data), held_out)
    if PartialState().is_main_process:
        make_folder(stage_dir)
        text = json.dumps(prepared.report.to_json(), indent=2, ensure_ascii=False) + "\n"
        write_text(stage_dir / account, redact_text(text))
    return prepared.splits


def eval_texts(data: DataArguments) -> dict[str, list[str]]:
    """Return the items of each suite that the training rows must not contain."""
    return {suite: item_texts(suite) for suite in data.decontaminate}


def loading_options(model_args: ModelConfig) -> dict[str, Any]:
    """Return the options for `load_trainable`: in 32 bit unless the recipe sets another dtype.

    By default transformers takes the dtype that a checkpoint was saved in; with 16-bit weights, gradients and moments
    Adam loses small steps.
    """
    options = {"dtype": model_args.dtype, "revision": model_args.model_revision}
    if model_args.attn_implementation is not None:
        options["attn_implementation"] = model_args.attn_implementation
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        options["quantization_config"] = quantization
    return options


def require_context(checkpoint: str, max_length: int | None) -> None:
    """Raise if rows may be longer than the model's context, beyond which it reads badly without an error."""
    context = context_length(load_config(checkpoint))
    if context is not None and (max_length is None or max_length > context):
        raise UserError(
            "max_length is beyond the model's context",
            got=f"max_length={max_length}, {context} positions in the model",
            expected=f"max_length of at most {context}",
            fix=f"max_length: {context}, or a model with more positions",
        )


@contextmanager
def refusals_named(kind: str, splits: DatasetDict, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Name the row that a chat template refuses, if a trainer ends at it while it tokenizes the rows."""
    try:
        yield
    except Exception as error:
        for name, rows in splits.items():
            for number, row in enumerate(rows, 1):
                _, _, refused = encode_rows(kind, [(number, row)], tokenizer)
                if refused:
                    raise UserError(
                        f"the chat template refuses rows of the {name} split",
                        got=f"row {number} of {len(rows)}: {refused[0].reason}",
                        expected="conversations that the template accepts",
                        fix="correct these rows, or use a template that accepts them",
                    ) from error
        raise


def account_for_tokens(trainer: Trainer, rows: Mapping[str, Dataset], kind: str, reason: str, stage_dir: Path) -> None:
    """Count the rows that TRL dropped for their length, in the log and in data.json.

    Args:
        rows: the rows that the trainer was given, by split.
        reason: the rows that TRL drops, in a few words.

    Raises:
        UserError: no row of a split is left.
    """
    datasets = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    dropped: dict[str, dict[str, Any]] = {}
    for split, left in ((name, datasets[name]) for name in rows if datasets.get(name) is not None):
        kept = sum(map(len, left["seq_lengths"])) if "seq_lengths" in left.column_names else len(left)
        if not kept:
            raise _none_left(trainer, rows[split], kind, f"no row of the {split} split is left: all {reason}")
        if kept < len(rows[split]):
            lost = len(rows[split]) - kept
            dropped[split] = {"rows": len(rows[split]), "trained": kept, "dropped": {reason: lost}}
            logger.warning("%s: %d of %d rows are dropped: they %s", split, lost, len(rows[split]), reason)
    record_tokens(stage_dir, dropped)


def _none_left(trainer: Trainer, rows: Dataset, kind: str, problem: str) -> UserError:
    """Return the error for a split of which no row is left, with a length that leaves rows."""
    encoded, pairs, _ = encode_rows(kind, enumerate(rows), trainer.processing_class)
    tokens = row_tokens(encoded, pairs)
    sizes = [RowLength(longest, tokens[number]) for number, (_, longest) in enumerate(row_lengths(rows, kind))]
    context = context_length(trainer.model.config)
    return UserError(
        problem,
        got=f"rows of {min(tokens.values())} tokens or more, max_length {trainer.args.max_length}",
        expected="rows that have something to learn within max_length",
        fix=length_fix(sizes, trainer.args.max_length, context),
    )


def record_tokens(stage_dir: Path, counts: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to a stage's data.json, by split, what became of its rows when they were tokenized."""
    if not counts:
        return
    with _account_to_change(stage_dir) as account:
        tokenized = account.setdefault("tokenized", {})
        for split, values in counts.items():
            tokenized[split] = tokenized.get(split, {}) | values


def record_labels(stage_dir: Path, column: str) -> None:
    """Say in the log and in a stage's data.json which column has the probabilities of the pairs' labels."""
    logger.info(
        "labels: %s (the probability that the chosen reply is better; each pair counts for both labels)", column
    )
    with _account_to_change(stage_dir) as account:
        account["labels"] = column


@contextmanager
def _account_to_change(stage_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield a stage's data.json, and write it again; without that file, changes are lost."""
    path, account = stage_dir / ACCOUNT, dict[str, Any]()
    writes = path.is_file() and PartialState().is_main_process
    if writes:
        account = json.loads(path.read_text(encoding="utf-8"))
    yield account
    if writes:
        write_text(path, json.dumps(account, indent=2, ensure_ascii=False) + "\n")
