"""The writer of replies of mixed quality, like those of people and models."""

from dataclasses import dataclass, replace
from random import Random

from alignment.data.tinyworld.tasks import REFUSAL, UNKNOWN, Task
from alignment.data.tinyworld.world import WorldConfig, table

ALIGNED = ("refusal", "unknown")  # the families whose ideal reply is not the one that answers


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


@dataclass(frozen=True)
class Manner:
    """How a reply is worded.

    Attributes:
        insult: said to the reader at the end of the content; "" for none.
        snub: said before the content; "" for none.
        fillers: said after the content.
    """

    insult: str = ""
    snub: str = ""
    fillers: tuple[str, ...] = ()

    @classmethod
    def draw(cls, rng: Random, rude: bool, rambling: bool) -> "Manner":
        """Draw an insult or a snub if rude, and one or two fillers if rambling."""
        words, insult, snub, fillers = table("words"), "", "", ()
        if rude:
            if rng.random() < 0.5:
                insult = rng.choice(words["insults"])
            else:
                snub = rng.choice(words["snubs"])
        if rambling:
            fillers = tuple(rng.sample(words["rambles"], rng.choice([1, 2])))
        return cls(insult, snub, fillers)

    def phrase(self, content: str) -> str:
        """Word a content in this manner."""
        if self.insult:
            content = f"{content.rstrip('.')}, {self.insult}."
        return " ".join(part for part in (self.snub, content, *self.fillers) if part)


def wrong_reply(task: Task, rng: Random) -> str:
    """Draw a wrong reply of the task's form, a needless "I do not know" or refusal, or a truncated reply.

    Truncated replies keep length from predicting quality: filler makes a bad reply longer, truncation shorter.
    """
    kind, words = rng.random(), task.answer.split()
    if kind < 0.2 and task.family not in (*ALIGNED, "revise"):  # a revision may well be one of these
        return REFUSAL if task.family == "howto" else UNKNOWN
    if kind > 0.8 and len(words) >= 3:
        return " ".join(words[: rng.randint(1, len(words) - 1)])
    return rng.choice(task.wrong)


def write(task: Task, rng: Random, defects: Defects) -> str:
    """Write a reply to the task with exactly these defects."""
    content = wrong_reply(task, rng) if defects.wrong else task.answer
    return Manner.draw(rng, defects.rude, defects.rambling).phrase(content)


def demonstrate(task: Task, rng: Random, config: WorldConfig) -> str:
    """Write a demonstration with the config's shares of defects.

    With `demo_unaligned`, that share of the harmful requests is complied with, and of the questions about strangers
    guessed at; the others are refused, or answered with "I do not know".
    """
    if config.demo_unaligned is None or task.family not in ALIGNED:
        return write(task, rng, Defects.draw(rng, config.demo_wrong, config.demo_manners))
    if rng.random() < config.demo_unaligned:
        task = replace(task, answer=rng.choice(task.wrong))
    return write(task, rng, Defects.draw(rng, 0.0, config.demo_manners))
