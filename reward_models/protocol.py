"""The one interface of all that says what a completion is worth, and how its arguments are read.

PPO and TRL's GRPO and RLOO trainers, `align sample`, `align reward-card` and the evaluation take any `Reward`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from alignment.tokenization.chat_format import Messages

Text = str | Messages  # a prompt or completion, as text or as a conversation


class Reward(Protocol):
    """TRL's signature of a reward function; a function or an object with a `__name__`, called by keywords."""

    __name__: str

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One number a completion, None where there is no opinion.

        Args:
            prompts: texts or conversations.
            completions: texts, or conversations of one reply where the prompts are conversations.
            completion_ids: their tokens as sampled; None where there was no sampling.
            columns: the data set's other columns, a value a completion, and of trainers `trainer_state`,
                `log_metric(name, number)` and `log_extra(column, values)`.
        """


class Comparer(Protocol):
    """A judge that prefers one of two replies, which it sees in this order; judge.in_both_positions asks it twice."""

    def compare(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        """1 where a is better, 0 where b is, 0.5 for a tie, None where there is no opinion."""


def reply_text(completion: Text) -> str:
    """A completion as text: of a conversation its last message, "" if that has no text, such as a call of a tool."""
    return completion if isinstance(completion, str) else (completion[-1]["content"] if completion else None) or ""


def transcript(prompt: Text) -> str:
    """A prompt as text; a conversation as `User: ...` and so on, unless it is one question."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def compare_by_score(
    reward: Reward, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], margin: float = 0.0, **columns: Any
) -> list[float | None]:
    """What any reward prefers, as `Comparer.compare` says it; scores no more than `margin` apart are a tie."""
    scores = [reward(prompts=prompts, completions=replies, **columns) for replies in (a, b)]
    return [_preferred(one, other, margin) for one, other in zip(*scores, strict=True)]


def _preferred(a: float | None, b: float | None, margin: float) -> float | None:
    if a is None or b is None:
        return None
    return 0.5 if abs(a - b) <= margin else float(a > b)
