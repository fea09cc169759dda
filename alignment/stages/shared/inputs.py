"""Inputs of a trainer stage: rows, and the options for loading its model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import DatasetDict
from trl import ModelConfig, get_quantization_config

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import prepare
from alignment.durable.atomic import write_text
from alignment.durable.unwritable import make_folder
from alignment.errors import UserError
from alignment.models.context_length import context_length
from alignment.models.loading import load_config
from alignment.redaction import redact_text
from eval.harness.suite import item_texts


def load_data(
    data: DataArguments,
    kind: str,
    seed: int,
    stage_dir: Path,
    *,
    keep: Sequence[str] | None = (),
    held_out: Mapping[str, str] | None = None,
    account: str = "data.json",
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
