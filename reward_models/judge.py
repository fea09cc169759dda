"""What a judge, a language model, is asked and how its answers are read."""

import re
from collections.abc import Sequence

from reward_models.protocol import Comparer, Text, reply_text, transcript

RATING_PROMPT = """Rate how good the reply below is, from {lowest} (useless or harmful) to {highest} (excellent).
Judge whether it is right, does what was asked, and is no longer than it needs to be.

[Conversation]
{prompt}

[Reply]
{completion}

Answer with the number alone.
Rating:"""

PAIR_PROMPT = """Which of the two replies below is better? Judge whether they are right and do what was asked. A longer
reply is not better for being longer.

[Conversation]
{prompt}

[Reply A]
{a}

[Reply B]
{b}

Answer with A or B alone.
Better reply:"""

PAIR_ANSWERS = ("A", "B")
FIELD = re.compile(r"\{(\w+)\}")
NAMED_RATING = re.compile(r"rating\W{0,12}(-?\d+(?:\.\d+)?)", re.IGNORECASE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NAMED_ANSWER = re.compile(r"(?:better reply|answer|verdict)\W{0,12}(A|B|tie)\b", re.IGNORECASE)


def fill(template: str, **values: object) -> str:
    """The template with {name} replaced, once each: braces in what is put in stay as they are."""
    return FIELD.sub(lambda found: str(values.get(found.group(1), found.group())), template)


def rating_prompts(
    template: str, prompts: Sequence[Text], completions: Sequence[Text], lowest: int, highest: int
) -> list[str]:
    return [
        fill(template, prompt=transcript(prompt), completion=reply_text(one), lowest=lowest, highest=highest)
        for prompt, one in zip(prompts, completions, strict=True)
    ]


def pair_prompts(template: str, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[str]:
    return [
        fill(template, prompt=transcript(prompt), a=reply_text(first), b=reply_text(second))
        for prompt, first, second in zip(prompts, a, b, strict=True)
    ]


def read_rating(answer: str, lowest: int, highest: int) -> float | None:
    """The number after the last `rating`, else the only number; None where there is none within the scale."""
    found = NAMED_RATING.findall(answer)[-1:]
    if not found and len(numbers := NUMBER.findall(answer)) == 1:
        found = numbers
    return float(found[0]) if found and lowest <= float(found[0]) <= highest else None


def read_preference(answer: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie: what is named last as the better reply, or is the whole answer; else None."""
    found = NAMED_ANSWER.findall(answer)[-1:] or [answer.strip(" \n.*[]()\"'")]
    return {"a": 1.0, "b": 0.0, "tie": 0.5}.get(found[0].lower())


def in_both_positions(
    judge: Comparer, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]
) -> list[float | None]:
    """Preferences that do not hang on the position: 1 or 0 where a judge says so with either first, else 0.5."""
    answers = judge.compare([*prompts, *prompts], [*a, *b], [*b, *a])
    return [both_positions(*one) for one in zip(answers[: len(a)], answers[len(a) :], strict=True)]


def both_positions(first: float | None, second: float | None) -> float | None:
    """One preference of two: 1 or 0 where both positions agree, 0.5 where they do not.

    Args:
        first: that for A, where a stood as A.
        second: that for A, where b stood as A.
    """
    if first is None or second is None:
        return None
    mean = (first + 1 - second) / 2
    return mean if mean in (0.0, 1.0) else 0.5
