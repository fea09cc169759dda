"""A causal language model as a judge, by its next-token probabilities of the answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignment.durable.manifest import digest_checkpoint
from alignment.errors import UserError, raise_all
from alignment.models.checkpoints import require_checkpoint
from alignment.models.context_length import context_length
from alignment.models.loading import load_causal_lm, load_tokenizer
from alignment.tokenization.chat_format import apply_template
from reward_models.judges import questions
from reward_models.judges.answer_store import Answer
from reward_models.learned import checkpoint_name
from reward_models.protocol import Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class LocalJudge:
    """A `Reward` and a `Comparer`.

    The reward is the expected rating: the mean of the ratings weighted by their tokens' probabilities, normalised over
    the scale. The total probability of the ratings is logged as the metric NAME/mass; near 0, the model did not mean to
    answer. Below `min_mass` the judge has no opinion (None), and likewise in a comparison. The share of such questions
    is logged as the metric NAME/unreadable, and `tally` counts {asked, unreadable} over all calls.

    Args:
        ratings: the lowest and the highest rating; the scale is the whole numbers between them, a token each.
        template: with {prompt}, {completion}, {lowest} and {highest}; by default questions.RATING_PROMPT.
        pair_template: with {prompt}, {a} and {b}, asking for A or B; by default questions.PAIR_PROMPT.
        min_mass: least total probability of the answers at which they are read.
        weights: identifies the model in a store of answers, such as the digest of its checkpoint; by default its name.
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
        weights: str | None = None,
    ):
        self.min_mass, self.weights = min_mass, weights or name
        self.tally: Counter[str] = Counter()
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
        return _where(self._expected_ratings(masses), answered)

    def compare(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        """The preference with a shown first: 1 for a, 0 for b, 0.5 if both are as likely, None for no opinion."""
        masses = self.answer_probabilities(
            questions.pair_prompts(self.pair_template, prompts, a, b), questions.PAIR_ANSWERS
        )
        return _where((1 + torch.sign(masses[:, 0] - masses[:, 1])) / 2, self._answered(masses))

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the judge's answers in a store: all that changes them."""
        return {"weights": self.weights, "dtype": str(self.model.dtype), "min_mass": self.min_mass}

    def graded_preferences(self, texts: Sequence[str]) -> list[Answer]:
        """The probability that the reply shown first is better, P(A) / (P(A) + P(B)), for questions about two."""
        masses = self.answer_probabilities(texts, questions.PAIR_ANSWERS)
        return _graded(masses[:, 0] / masses.sum(1), self._answered(masses))

    def graded_ratings(self, texts: Sequence[str]) -> list[Answer]:
        """The expected rating, for questions for a rating."""
        masses = self.answer_probabilities(texts, [str(rating) for rating in self.scale])
        return _graded(self._expected_ratings(masses), self._answered(masses))

    def require_ready(self, pairs: bool) -> None:
        """Raise a UserError for a model without a chat template, or whose answers are not one token each.

        Args:
            pairs: whether pairs are judged; otherwise the answers are ratings.
        """
        require_answers(self.tokenizer, self.__name__, questions.PAIR_ANSWERS if pairs else [*map(str, self.scale)])

    def _expected_ratings(self, masses: torch.Tensor) -> torch.Tensor:
        """(B, ratings) probabilities -> B"""
        return (masses * torch.tensor(self.scale, dtype=masses.dtype)).sum(1) / masses.sum(1)

    def _answered(self, masses: torch.Tensor) -> list[bool]:
        """Whether the model meant to answer each question. (B, answers) probabilities -> B"""
        mass = masses.sum(1)
        answered = ((mass >= self.min_mass) & (mass > 0)).tolist()
        unread = answered.count(False)
        self.tally.update(asked=len(answered), unreadable=unread)
        if unread > len(answered) / 2:  # a wrong template, rather than a few odd replies, which are counted
            logger.warning(
                "%s: no opinion on %d of %d questions: the expected answers have a probability below %g in total",
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
        """Token ids of a question through the chat template, or of the text to continue if there is no template."""
        if self.tokenizer.chat_template is None:
            return self.tokenizer(text)["input_ids"]
        messages = [{"role": "user", "content": text}]
        return apply_template(self.tokenizer, messages, add_generation_prompt=True, return_dict=True)["input_ids"]

    def fits(self, text: str) -> bool:
        """Whether a question fits the model's context."""
        context = context_length(self.model.config)
        return context is None or len(self._encode(text)) <= context

    def _require_room(self, ids: Sequence[Sequence[int]]) -> None:
        context = context_length(self.model.config)
        longest = max(map(len, ids), default=0)
        if context is not None and longest > context:
            raise UserError(
                f"{self.__name__}: a question is longer than the judge's context",
                got=f"{longest} tokens",
                expected=f"at most {context}",
                fix="use a shorter template, shorter completions, or a judge with a longer context",
            )


def _where(values: torch.Tensor, answered: Sequence[bool]) -> list[float | None]:
    """(B,) values as a list, with None for unanswered questions."""
    return [value if one else None for value, one in zip(values.tolist(), answered, strict=True)]


def _graded(values: torch.Tensor, answered: Sequence[bool]) -> list[Answer]:
    return [Answer(value, graded=value is not None) for value in _where(values, answered)]


def answer_tokens(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """The tokens of an answer, alone and after a space.

    Raises:
        UserError: neither form is a single token.
    """
    forms = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (answer, f" {answer}")]
    found = sorted({ids[0] for ids in forms if len(ids) == 1 and ids[0] != tokenizer.unk_token_id})
    if not found:
        raise UserError(
            f"the answer {answer!r} is not one token for the judge",
            got=f"tokens {forms[0]}",
            expected="answers of one token each",
            fix="use other ratings, such as 1 to 5, or another judge",
        )
    return found


def require_reading(batch_size: int, min_mass: float) -> None:
    """Raise for a batch without questions, and for a probability that no answers have.

    Raises:
        UserErrors: for both together.
    """
    errors = []
    if batch_size < 1:
        errors.append(UserError("batch_size of a judge is out of range", got=batch_size, expected="1 or more"))
    if not 0 <= min_mass <= 1:
        errors.append(UserError("min_mass of a judge is out of range", got=min_mass, expected="0 to 1"))
    raise_all(errors)


def require_answers(tokenizer: PreTrainedTokenizerBase, name: str, answers: Sequence[str]) -> None:
    """Raise a UserError for a tokenizer without a chat template, or for which an answer is not one token."""
    if tokenizer.chat_template is None:
        raise UserError(
            f"the judge {name} has no chat template",
            expected="a model that answers questions: its tokenizer has a chat template",
            fix="judge with an instruct model, or with the checkpoint of an SFT stage",
        )
    for answer in answers:
        answer_tokens(tokenizer, answer)


def check_local(
    checkpoint: str,
    pairs: bool,
    lowest: int = 1,
    highest: int = 5,
    batch_size: int = 8,
    min_mass: float = 0.01,
    **options: Any,
) -> None:
    """Raise a UserError for a judge that `LocalJudge.require_ready` would refuse, without loading its model.

    Args:
        options: the other options of `local`.
    """
    questions.require_scale(lowest, highest)
    questions.read_template(options.get("template_file"))
    require_reading(batch_size, min_mass)
    require_checkpoint(checkpoint)
    answers = questions.PAIR_ANSWERS if pairs else [str(rating) for rating in range(lowest, highest + 1)]
    require_answers(load_tokenizer(checkpoint), checkpoint_name(checkpoint), answers)


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
    """A judge from a checkpoint: a folder or hub id of a causal language model or an adapter.

    Args:
        lowest, highest: the scale of the ratings.
        template_file: a file with the question for a rating, as `LocalJudge`'s template.
        device: by default cuda if available, otherwise cpu.
        min_mass: as for `LocalJudge`.
    """
    questions.require_scale(lowest, highest)
    template = questions.read_template(template_file)
    require_reading(batch_size, min_mass)
    model, tokenizer = load_causal_lm(checkpoint, dtype=dtype)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = checkpoint_name(checkpoint)
    return LocalJudge(
        model,
        tokenizer,
        name,
        (lowest, highest),
        template,
        None,
        batch_size,
        min_mass,
        digest_checkpoint(checkpoint) if Path(checkpoint).is_dir() else checkpoint,
    )
