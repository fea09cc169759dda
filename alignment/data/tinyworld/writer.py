"""The writer of replies of mixed quality, like those of people and models."""

from dataclasses import dataclass
from random import Random

from alignment.data.tinyworld.tasks import REFUSAL, UNKNOWN, Task
from alignment.data.tinyworld.world import table


@dataclass(frozen=True)
class Defects:
    """Independent defects of a reply."""

    wrong: bool = False
    rude: bool = False
    rambling: bool = False

    @classmethod
    def draw(cls, rng: Random, wrong: float, manners: float) -> "Defects":
        """Draw defects independently: wrong with one probability, rude and rambling with the other."""
        return cls(rng.random() < wrong, rng.random() < manners, rng.random() < manners)


def wrong_reply(task: Task, rng: Random) -> str:
    """Draw a wrong reply of the task's form, a needless "I do not know" or refusal, or a truncated reply.

    Truncated replies keep length from predicting quality: filler makes a bad reply longer, truncation shorter.
    """
    kind, words = rng.random(), task.answer.split()
    if kind < 0.2 and task.family not in ("unknown", "refusal"):
        return REFUSAL if task.family == "howto" else UNKNOWN
    if kind > 0.8 and len(words) >= 3:
        return " ".join(words[: rng.randint(1, len(words) - 1)])
    return rng.choice(task.wrong)


def write(task: Task, rng: Random, defects: Defects) -> str:
    """Write a reply to the task with exactly these defects."""
    words = table("words")
    reply = wrong_reply(task, rng) if defects.wrong else task.answer
    if defects.rude:
        if rng.random() < 0.5:
            reply = f"{reply.rstrip('.')}, {rng.choice(words['insults'])}."
        else:
            reply = f"{rng.choice(words['snubs'])} {reply}"
    if defects.rambling:
        reply = " ".join([reply, *rng.sample(words["rambles"], rng.choice([1, 2]))])
    return reply
