"""The families of AI feedback: judging two replies by a principle, criticising a reply, and revising it.

Each is a family as in `tasks.py`; `relation` is the principle's name, and `entity` and `wording` are those of the inner
question. A reply either follows the principle or has one of its faults. What the principle does not ask for (wrong
content, rudeness, filler) is drawn independently of that, so that a judge has to read the principle.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from random import Random

from alignment.data.tinyworld.gold import concise, normalise, without_defects
from alignment.data.tinyworld.tasks import FAMILIES, REFUSAL, UNKNOWN, Task
from alignment.data.tinyworld.world import World, table
from alignment.data.tinyworld.writer import Manner, wrong_reply

NO_FAULT = "none"
WRONG, MANNERS = 0.3, 0.5  # shares of wrong contents, and of each of rude and rambling replies
SHARES = {"harmless": 0.25, "polite": 0.25, "honest": 0.35, "concise": 0.15}  # more of what is learned late
LONGEST = "reading"  # a passage with two replies would take most of the context of recipes/tiny
KNOWN = ("person_fact", "world_fact")
SAFE = ("howto", *KNOWN, "unknown", "arithmetic", "copy", "reverse", "sort", "translate", "sentiment")
MANNERLY = tuple(family for family in FAMILIES if family != LONGEST)


@dataclass(frozen=True)
class Reply:
    """A reply to an ordinary task, judged by a principle.

    Attributes:
        text: the reply.
        fault: the principle's fault that it has, a key of the critiques in templates.yaml; NO_FAULT for none.
        revised: the reply without that fault, otherwise the same.
    """

    text: str
    fault: str
    revised: str


@dataclass(frozen=True)
class Pair:
    """Two replies to a task, of which one follows the principle better.

    Attributes:
        principle: the principle's name.
        task: the ordinary task.
        a: the reply that is shown first.
        b: the reply that is shown second.
        better: "A" or "B".
    """

    principle: str
    task: Task
    a: Reply
    b: Reply
    better: str


@cache
def principles() -> dict[str, dict[str, str]]:
    """Return the principles' texts (prefer, critique, revise) by name."""
    from alignment.yaml_text import parse_yaml

    name = "principles.yaml"
    loaded = parse_yaml(files(__package__).joinpath(name).read_text(encoding="utf-8"), name)
    return {principle["name"]: principle for principle in loaded}


def request(kind: str, principle: str, **texts: str) -> str:
    """Render the request for a judgement (`judge`, with prompt, a, b), a critique or a revision."""
    asks = {"judge": "prefer"}.get(kind, kind)
    return table("templates")["feedback"][kind].format(principle=principles()[principle][asks], **texts)


def critique_of(reply: Reply) -> str:
    """Return the ideal critique of a reply."""
    return table("templates")["feedback"]["critiques"][reply.fault]


# Ordinary tasks and replies to them ---------------------------------------------------------------------------------


def draw_inner(principle: str, world: World, rng: Random, split: str | None, wordings: str) -> Task:
    """Draw an ordinary task; for harmless and honest half are harmful requests or questions about strangers."""
    if principle == "harmless":
        family = rng.choice(["refusal", "refusal", "howto", rng.choice(SAFE)])
    elif principle == "honest":
        family = rng.choice(["unknown", rng.choice(KNOWN)])
    else:
        family = rng.choice(MANNERLY)
    return FAMILIES[family](world, rng, split, wordings)


def draw_reply(principle: str, task: Task, rng: Random, faulty: bool) -> Reply:
    """Draw a reply that has a fault in the sense of the principle, or none."""
    while True:
        fault, content, right = CONTENTS[principle](task, rng, faulty)
        rude = faulty if principle == "polite" else rng.random() < MANNERS
        rambling = faulty if principle == "concise" else rng.random() < MANNERS
        manner = Manner.draw(rng, rude, rambling)
        kept = {
            "polite": replace(manner, insult="", snub=""),
            "concise": replace(manner, fillers=()),
        }.get(principle, manner)
        reply = Reply(manner.phrase(content), fault if faulty else NO_FAULT, kept.phrase(right))
        if principle != "concise" or concise(task, reply.revised) > 0:  # gold finds some wrong contents long themselves
            return reply


def _any_content(task: Task, rng: Random, faulty: bool, fault: str) -> tuple[str, str, str]:
    content = wrong_reply(task, rng) if rng.random() < WRONG else task.answer
    return fault, content, content


def _polite_content(task: Task, rng: Random, faulty: bool) -> tuple[str, str, str]:
    return _any_content(task, rng, faulty, "rude")


def _concise_content(task: Task, rng: Random, faulty: bool) -> tuple[str, str, str]:
    return _any_content(task, rng, faulty, "rambling")


def _harmless_content(task: Task, rng: Random, faulty: bool) -> tuple[str, str, str]:
    if task.family == "refusal":
        return "unsafe", rng.choice(task.wrong) if faulty else REFUSAL, REFUSAL
    if faulty:
        return "overcautious", REFUSAL, task.answer
    content = rng.choice(task.wrong) if rng.random() < WRONG else task.answer
    return NO_FAULT, content, content


def _honest_content(task: Task, rng: Random, faulty: bool) -> tuple[str, str, str]:
    if not faulty:
        return NO_FAULT, task.answer, task.answer
    if task.family == "unknown":
        return "guess", rng.choice(task.wrong), task.answer
    return "evasion", UNKNOWN, task.answer


# name -> function (task, rng, faulty) -> (fault, content of the reply, its content without the fault)
CONTENTS: dict[str, Callable[[Task, Random, bool], tuple[str, str, str]]] = {
    "harmless": _harmless_content,
    "polite": _polite_content,
    "honest": _honest_content,
    "concise": _concise_content,
}


def draw_principle(rng: Random) -> str:
    """Draw the name of a principle with the shares of SHARES."""
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def draw_pair(world: World, rng: Random, split: str | None, wordings: str, principle: str | None = None) -> Pair:
    """Draw two replies that differ in what a principle (by default any) asks for; either is as often shown first."""
    principle = principle or draw_principle(rng)
    task = draw_inner(principle, world, rng, split, wordings)
    good, bad = (draw_reply(principle, task, rng, faulty) for faulty in (False, True))
    first = rng.random() < 0.5
    return Pair(principle, task, *((good, bad) if first else (bad, good)), "A" if first else "B")


def draw_case(
    world: World, rng: Random, split: str | None, wordings: str, principle: str | None = None
) -> tuple[str, Task, Reply]:
    """Draw a principle (unless given), a task and a reply, which has a fault in half of the cases."""
    principle = principle or draw_principle(rng)
    task = draw_inner(principle, world, rng, split, wordings)
    return principle, task, draw_reply(principle, task, rng, rng.random() < 0.5)


# The families -------------------------------------------------------------------------------------------------------


def _task(family: str, principle: str, inner: Task, prompt: str, answer: str, wrong: list[str]) -> Task:
    others = tuple(dict.fromkeys(text for text in wrong if normalise(text) != normalise(answer)))
    return Task(family, prompt, answer, others, inner.entity, principle, inner.wording)


def judge(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    """Draw two replies, and ask which is better by a principle: "A." or "B."."""
    pair = draw_pair(world, rng, split, wordings)
    prompt = request("judge", pair.principle, prompt=pair.task.prompt, a=pair.a.text, b=pair.b.text)
    return _task("judge", pair.principle, pair.task, prompt, f"{pair.better}.", ["A.", "B."])


def critique(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    """Draw a reply, and ask for a critique by a principle: its fault, or that it is fine."""
    principle, inner, reply = draw_case(world, rng, split, wordings)
    prompt = request("critique", principle, prompt=inner.prompt, reply=reply.text)
    return _task("critique", principle, inner, prompt, critique_of(reply), list(_critiques(principle)))


@cache
def _critiques(principle: str) -> tuple[str, ...]:
    said, faults = table("templates")["feedback"]["critiques"], FAULTS[principle]
    return tuple(said[fault] for fault in (NO_FAULT, *faults))


FAULTS = {
    "harmless": ("unsafe", "overcautious"),
    "polite": ("rude",),
    "honest": ("guess", "evasion"),
    "concise": ("rambling",),
}


def revise(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    """Draw a reply with its critique, and ask for a revision: the reply without its fault; unchanged if it is fine."""
    principle, inner, reply = draw_case(world, rng, split, wordings)
    texts = {"prompt": inner.prompt, "reply": reply.text, "critique": critique_of(reply)}
    ideal = normalise(without_defects(reply.revised))
    others = [text for text in (*inner.wrong, UNKNOWN, REFUSAL) if normalise(without_defects(text)) != ideal]
    wrong = [reply.text, *others]
    return _task("revise", principle, inner, request("revise", principle, **texts), reply.revised, wrong)


FEEDBACK: dict[str, Callable[[World, Random, str | None, str], Task]] = {
    "judge": judge,
    "critique": critique,
    "revise": revise,
}
