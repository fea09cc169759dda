"""A sequence-classification model as a reward for text or conversations, through its own tokenizer."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignment.errors import UserError, gathered, raise_all
from alignment.models.adapters import fitted, read_adapter, require_fit
from alignment.models.checkpoints import (
    adapter_base,
    adapter_folder,
    changes_its_base,
    is_adapter,
    recorded_quantization,
    require_sound,
)
from alignment.models.context_length import context_length
from alignment.models.loading import load_tokenizer, load_trainable, require_reward_model
from alignment.tokenization.reward_rows import padding_id, reward_rows
from reward_models.protocol import Text

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class LearnedReward:
    """A `Reward`: the score of each prompt with its completion; None if together they exceed the model's context.

    Args:
        model: a model with one label; its device and dtype are kept.
        adapter: the adapter to score with, if the model is a PeftModel that holds several.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "reward",
        batch_size: int = 32,
        adapter: str | None = None,
    ):
        if model.config.num_labels != 1:
            raise UserError(
                f"{name} does not give one score", got=f"{model.config.num_labels} labels", expected="1 label"
            )
        self.model, self.tokenizer, self.batch_size, self.adapter = model, tokenizer, batch_size, adapter
        self.__name__ = name

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        return [None if math.isnan(score) else score for score in self.scores(prompts, completions).tolist()]

    def scores(self, prompts: Sequence[Text], completions: Sequence[Text]) -> np.ndarray:
        """Scores, NaN for a row that is longer than the model's context. -> (B,)"""
        rows = reward_rows(self.tokenizer, prompts, completions)
        context = context_length(self.model.config) or math.inf
        fitting = [index for index, row in enumerate(rows) if len(row) <= context]
        if len(fitting) < len(rows):
            logger.warning(
                "%s: %d of %d completions not scored: longer than its %d positions",
                *(self.__name__, len(rows) - len(fitting), len(rows), context),
            )
        if self.adapter is not None:
            self.model.set_adapter(self.adapter)
        scores = np.full(len(rows), np.nan)
        scores[fitting] = score_rows(self.model, self.tokenizer, [rows[index] for index in fitting], self.batch_size)
        return scores


@torch.no_grad()
def score_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], batch_size: int
) -> np.ndarray:
    """The score of each row of token ids, in batches of similar length. -> (B,)"""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = np.empty(len(rows))
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        padded = tokenizer.pad(
            {"input_ids": [rows[index] for index in batch]}, padding_side="right", return_tensors="pt"
        )
        scores[batch] = model(**padded.to(model.device)).logits.squeeze(-1).float().cpu()
    model.train(was_training)
    return scores


def reward(checkpoint: str, batch_size: int = 32, device: str | None = None, dtype: str = "auto") -> LearnedReward:
    """The reward of a checkpoint: a folder or hub id of a sequence-classification model or of an adapter.

    Args:
        device: by default cuda if available, otherwise cpu.
        dtype: such as bfloat16; auto: as saved.
    """
    return load_members([checkpoint], batch_size, device, dtype)[0]


def load_members(
    checkpoints: Sequence[str], batch_size: int = 32, device: str | None = None, dtype: str = "auto"
) -> list[LearnedReward]:
    """The rewards of several checkpoints; adapters on the same base share it."""
    _require_all(checkpoints)
    bases: dict[tuple[str, str], PreTrainedModel] = {}
    members = []
    for number, checkpoint in enumerate(checkpoints):
        base = _base_of(checkpoint)
        adapter: str | None
        if base in bases:
            model, adapter = bases[base], f"member_{number}"
            add_member(model, checkpoint, adapter)
        else:
            model = load_trainable(checkpoint, "sequence-classification", dtype=dtype)
            model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            adapter = model.active_adapter if base is not None else None
            if base is not None:
                bases[base] = model
        tokenizer = load_tokenizer(checkpoint)
        pad = padding_id(None if base is not None else model.config, tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        model.config.get_text_config().pad_token_id = pad  # the score is read at the last token before the padding
        model.requires_grad_(False)
        members.append(LearnedReward(model, tokenizer, checkpoint_name(checkpoint), batch_size, adapter))
    return members


def add_member(model: PeftModel, checkpoint: str, name: str) -> None:
    """Load another reward model's adapter onto the base that a model has."""
    require_sound(checkpoint)
    folder = adapter_folder(checkpoint)
    read_adapter(folder)  # raises for weights that are not there, or not finite
    with fitted(checkpoint):
        require_fit(checkpoint, model, model.load_adapter(folder, adapter_name=name), name)


def _require_all(checkpoints: Sequence[str]) -> None:
    errors: list[UserError] = []
    for checkpoint in checkpoints:
        with gathered(errors):
            require_reward_model(checkpoint)
    raise_all(errors)


def _base_of(checkpoint: str) -> tuple[str, str] | None:
    """(base, its quantization) of an adapter that leaves its base unchanged; None for other checkpoints."""
    if not is_adapter(checkpoint) or changes_its_base(checkpoint):
        return None
    base = adapter_base(checkpoint)
    return str(Path(base).resolve()) if Path(base).is_dir() else base, json.dumps(recorded_quantization(checkpoint))


def checkpoint_name(checkpoint: str) -> str:
    """The last part of a path or hub id; the stage's name for a stage's checkpoint."""
    return checkpoint.rstrip("/").removesuffix("/checkpoint").split("/")[-1]
