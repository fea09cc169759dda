"""PPO-ptx: a language-model loss on pretraining text, so that the policy forgets less (Ouyang et al. 2022)."""

from __future__ import annotations

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignment.data.tokenizing.tokens import ended, make_encoder, require_eos
from alignment.errors import UserError
from alignment.keyed_seeds import keyed_generator
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.models import Model


class PretrainingTexts:
    """Micro-batches of texts, drawn at random by a key."""

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, args: PPOConfig):
        self.dataset, self.end = dataset, require_eos(tokenizer)
        self.encode = ended(make_encoder(tokenizer), self.end)
        self.batch_size, self.max_length = args.per_device_train_batch_size, args.ptx_max_length

    @classmethod
    def of(
        cls, dataset: Dataset | None, tokenizer: PreTrainedTokenizerBase, args: PPOConfig
    ) -> PretrainingTexts | None:
        """The texts of a data set; None if ptx_coef is 0."""
        if (dataset is None) != (args.ptx_coef == 0):
            raise UserError(
                "ptx_coef and ptx_dataset need each other.",
                got=f"ptx_coef={args.ptx_coef}, {'no' if dataset is None else 'a'} ptx_dataset",
            )
        if dataset is None:
            return None
        if len(dataset) == 0 or "text" not in dataset[0]:
            raise UserError("ptx_dataset needs a `text` column.", got=f"{len(dataset)} rows")
        return cls(dataset, tokenizer, args)

    def batch(self, key: tuple, device: torch.device) -> dict[str, Tensor]:
        """Token ids, mask and labels of texts drawn with replacement, each with a final end-of-sequence token."""
        return padded(self._draw(key, self.batch_size), device)

    def share(self, key: tuple, place: int, places: int, device: torch.device) -> tuple[dict[str, Tensor], float]:
        """Micro-batch number `place` of the `places` of an optimizer step, and its share of the step's targets.

        The texts of a step are drawn together: they do not depend on the number of micro-batches or processes.
        """
        ids = self._draw(key, self.batch_size * places)
        own = ids[place * self.batch_size : (place + 1) * self.batch_size]
        targets, of_step = (sum(len(row) - 1 for row in rows) for rows in (own, ids))
        return padded(own, device), targets / max(of_step, 1)

    def _draw(self, key: tuple, count: int) -> list[list[int]]:
        rows = torch.randint(len(self.dataset), (count,), generator=keyed_generator(*key)).tolist()
        texts = [self.dataset[row]["text"] for row in rows]
        return [
            row if len(row) <= self.max_length else [*row[: self.max_length - 1], self.end]
            for row in self.encode(texts)
        ]


def padded(ids: list[list[int]], device: torch.device) -> dict[str, Tensor]:
    """Pad rows of token ids on the right: token ids, mask and labels."""
    width = max(map(len, ids))
    input_ids = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)
    lengths = torch.tensor([len(row) for row in ids], device=device)
    mask = torch.arange(width, device=device)[None] < lengths[:, None]
    return {"input_ids": input_ids, "attention_mask": mask.long(), "labels": input_ids.masked_fill(~mask, -100)}


def mean_token_loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood per target in nats, without router losses. -> []."""
    options = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    return model(**batch, use_cache=False, **options).loss
