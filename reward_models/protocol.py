"""The interface of rewards and of judges, and the text of their arguments.

PPO and TRL's GRPO and RLOO trainers, `align sample`, `align reward-card` and `align winrate` take any `Reward`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

from alignment.tokenization.chat_format import Messages

COLUMN = "the name of a column of the data set"
Column = Annotated[str, COLUMN]  # annotation of an option, so that a missing column is found before training
Text = str | Messages  # a prompt or completion, as text or as a conversation


class Reward(Protocol):
    """A function, or an object with a `__name__`, with TRL's signature of a reward function, called by keywords."""

    __name__: str

    def __call__(
        self,
        *,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A number per completion, None for no opinion; called through `calls.checked`, which says what it refuses.

        Args:
            prompts: texts or conversations.
            completions: texts; conversations of one reply if the prompts are conversations.
            completion_ids: the completions' tokens as sampled; None if they were not sampled.
            columns: the data set's other columns, a value per completion. Trainers add `trainer_state`,
                `log_metric(name, number)` and `log_extra(column, values)`.
        """


@runtime_checkable
class Comparer(Protocol):
    """A judge of two replies, which it sees in the order given; `judge_in_both_positions` asks it in either order."""

    def compare(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> Sequence[float | None]:
        """1 if a is better, 0 if b is better, 0.5 for a tie, None for no opinion, or a's probability; per prompt."""


def reply_text(completion: Text) -> str:
    """A completion as text: the last message of a conversation, "" if that has no text, such as a tool call."""
    return completion if isinstance(completion, str) else (completion[-1]["content"] if completion else None) or ""


def transcript(prompt: Text) -> str:
    """A prompt as text: a single message as it is, a longer conversation as `User: ...`, `Assistant: ...`."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def compare_by_score(
    reward: Reward, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], margin: float = 0.0, **columns: Any
) -> list[float | None]:
    """Compare replies by their scores, with the values of `Comparer.compare`; at most `margin` apart is a tie."""
    scores = [reward(prompts=prompts, completions=replies, **columns) for replies in (a, b)]
    return [_preferred(one, other, margin) for one, other in zip(*scores, strict=True)]


def _preferred(a: float | None, b: float | None, margin: float) -> float | None:
    if a is None or b is None:
        return None
    return 0.5 if abs(a - b) <= margin else float(a > b)
