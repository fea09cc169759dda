"""What a trainer stage loads: rows, and the options that its model is loaded with."""

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
from alignment.errors import UserError
from alignment.masking import mask_text
from alignment.models.loading import load_config
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
    """The stage's rows as `prepare` gives them; what became of every row is written to the stage's folder."""
    with PartialState().main_process_first():  # the others take the rows from the cache
        prepared = prepare(data, kind, seed, keep, eval_texts(data), held_out)
    if PartialState().is_main_process:
        stage_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(prepared.report.to_json(), indent=2, ensure_ascii=False) + "\n"
        write_text(stage_dir / account, mask_text(text))
    return prepared.splits


def eval_texts(data: DataArguments) -> dict[str, list[str]]:
    """The items of each suite that training is to be kept clean of."""
    return {suite: item_texts(suite) for suite in data.decontaminate}


def loading_options(model_args: ModelConfig) -> dict[str, Any]:
    """How `load_trainable` loads what a recipe trains: in 32 bit unless it says otherwise.

    Left to itself, transformers takes the type that a checkpoint was saved in: Adam would train weights, gradients and
    moments of 16 bit, in which small steps vanish.
    """
    options = {"dtype": model_args.dtype, "revision": model_args.model_revision}
    if model_args.attn_implementation is not None:
        options["attn_implementation"] = model_args.attn_implementation
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        options["quantization_config"] = quantization
    return options


def require_context(checkpoint: str, max_length: int | None) -> None:
    """Raise where rows may be longer than what the model was made for: beyond it, it reads badly and says nothing."""
    context = getattr(load_config(checkpoint), "max_position_embeddings", None)
    if context is not None and (max_length is None or max_length > context):
        raise UserError(
            "max_length is beyond the model's context",
            got=f"max_length={max_length}, {context} positions in the model",
            expected=f"max_length of at most {context}",
            fix=f"max_length: {context}, or a model with more positions",
        )
