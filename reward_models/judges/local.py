"""A causal language model as a judge: its rating is read from the probabilities of the rating tokens."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignment.errors import UserError
from alignment.models.context_length import context_length
from alignment.models.loading import load_causal_lm
from reward_models.judges import questions
from reward_models.learned import checkpoint_name
from reward_models.protocol import Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class LocalJudge:
    """A `Reward` and a `Comparer`.

    Its reward is the expected rating: the mean of the ratings weighted by the probabilities of their tokens, as shares
    of what the model gives to all ratings. How much that is, is logged as the metric NAME/mass: near 0, the model did
    not mean to answer. Below `min_mass` it has no opinion (None), as in a comparison; how often that happens is logged,
    as the metric NAME/unreadable too, and counted in `tally`: {asked, unreadable} of all calls.

    Args:
        ratings: the least and the greatest; the whole numbers between them are the scale, each one token.
        template: with {prompt}, {completion}, {lowest} and {highest}; default: questions.RATING_PROMPT.
        pair_template: with {prompt}, {a} and {b}; it asks for A or B.
        min_mass: the least probability of all answers together for which they are read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "judge",
        ratings: tuple[int, int] = (1, 5),
        template: str | None = None,
        pair_template: str | None = None,
        batch_size: int = 8,
        min_mass: float = 0.01,
    ):
        self.min_mass, self.tally = min_mass, Counter()
        self.model, self.tokenizer, self.batch_size, self.__name__ = model.eval(), tokenizer, batch_size, name
        self.scale = list(range(ratings[0], ratings[1] + 1))
        self.template, self.pair_template = template or questions.RATING_PROMPT, pair_template or questions.PAIR_PROMPT

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        texts = questions.rating_prompts(self.template, prompts, completions, self.scale[0], self.scale[-1])
        masses = self.answer_probabilities(texts, [str(rating) for rating in self.scale])
        answered = self._answered(masses)
        if "log_metric" in columns and answered:
            columns["log_metric"](f"{self.__name__}/mass", masses.sum(1).mean().item())
            columns["log_metric"](f"{self.__name__}/unreadable", answered.count(False) / len(answered))
        scale = torch.tensor(self.scale, dtype=masses.dtype)
        return _where((masses * scale).sum(1) / masses.sum(1), answered)

    def compare(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        """What is preferred with a standing first: 1 for a, 0 for b, 0.5 if both are as likely, None for no opinion."""
        masses = self.answer_probabilities(
            questions.pair_prompts(self.pair_template, prompts, a, b), questions.PAIR_ANSWERS
        )
        return _where((1 + torch.sign(masses[:, 0] - masses[:, 1])) / 2, self._answered(masses))

    def _answered(self, masses: torch.Tensor) -> list[bool]:
        """Whether the model meant to answer each question, by (B, answers) probabilities; counts those it did not."""
        mass = masses.sum(1)
        answered = ((mass >= self.min_mass) & (mass > 0)).tolist()
        unread = answered.count(False)
        self.tally.update(asked=len(answered), unreadable=unread)
        if unread:
            logger.warning(
                "%s: %d of %d questions have no opinion: the answers asked for have less than %g of the probability",
                *(self.__name__, unread, len(answered), self.min_mass),
            )
        return answered

    @torch.no_grad()
    def answer_probabilities(self, texts: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        """The probability of each answer as the next token, with and without a space before it. -> (B, answers)"""
        ids = [self._encode(text) for text in texts]
        forms = [answer_tokens(self.tokenizer, answer) for answer in answers]
        self._require_room(ids)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        result = torch.zeros(len(ids), len(answers), dtype=torch.float64)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            rows = {"input_ids": [ids[index] for index in batch]}
            padded = self.tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(self.model.device)
            positions = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
            logits = self.model(**padded, position_ids=positions, logits_to_keep=1).logits[:, -1]
            probabilities = logits.double().softmax(-1).cpu()
            result[batch] = torch.stack([probabilities[:, tokens].sum(1) for tokens in forms], 1)
        return result

    def _encode(self, text: str) -> list[int]:
        """As a question by the chat template, where there is one; else as text to go on with."""
        if self.tokenizer.chat_template is None:
            return self.tokenizer(text)["input_ids"]
        messages = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]

    def _require_room(self, ids: Sequence[Sequence[int]]) -> None:
        context = context_length(self.model.config)
        longest = max(map(len, ids), default=0)
        if context is not None and longest > context:
            raise UserError(
                f"{self.__name__}: a question is longer than the judge's context",
                got=f"{longest} tokens",
                expected=f"at most {context}",
                fix="a shorter template, shorter completions, or a judge with a longer context",
            )


def _where(values: torch.Tensor, answered: Sequence[bool]) -> list[float | None]:
    """(B,) values as a list, None where there is no answer."""
    return [value if one else None for value, one in zip(values.tolist(), answered, strict=True)]


def answer_tokens(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """The tokens that say an answer, alone or after a space.

    Raises:
        UserError: it is no single token.
    """
    forms = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (answer, f" {answer}")]
    found = sorted({ids[0] for ids in forms if len(ids) == 1 and ids[0] != tokenizer.unk_token_id})
    if not found:
        raise UserError(
            f"{answer!r} is not one token of the judge's",
            got=f"{forms[0]}",
            expected="answers of one token each",
            fix="other ratings, such as 1 to 5, or another judge",
        )
    return found


def local(
    checkpoint: str,
    lowest: int = 1,
    highest: int = 5,
    template_file: str | None = None,
    batch_size: int = 8,
    device: str | None = None,
    dtype: str = "auto",
    min_mass: float = 0.01,
) -> LocalJudge:
    """A judge by its checkpoint: a folder or hub id of a causal language model, or an adapter.

    Args:
        template_file: what is asked for a rating, as LocalJudge's template.
        device: default: cuda where there is one.
        min_mass: as LocalJudge's.
    """
    template = None if template_file is None else Path(template_file).read_text(encoding="utf-8")
    model, tokenizer = load_causal_lm(checkpoint, dtype=dtype)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = checkpoint_name(checkpoint)
    return LocalJudge(model, tokenizer, name, (lowest, highest), template, None, batch_size, min_mass)
