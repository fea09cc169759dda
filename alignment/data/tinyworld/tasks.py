"""The task families of tinyworld: each draws a prompt, its ideal reply, and the data to check replies.

A family is a function `(world, rng, split, wordings) -> Task`. `split` limits the entities to those of that split
(None: all of them, as in pretraining documents); `wordings` is `train` or `test`.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from alignment.data.tinyworld.passages import ask, passage
from alignment.data.tinyworld.world import World, split_of, table

REFUSAL = "Sorry, I cannot help with that."
UNKNOWN = "I do not know."
MOST_DRAWS = 10_000
NUMBERS = {"two": 2, "three": 3, "four": 4}
LISTED = {
    "animals": "animals",
    "jobs": "jobs",
    "foods": "foods",
    "colours": "colours",
    "tools": "tools",
    "towns": "places",
    "things": "things",
}


@dataclass(frozen=True)
class Task:
    """A prompt with its true answer.

    Attributes:
        family: name of the family.
        prompt: the user's message.
        answer: the ideal reply.
        wrong: wrong replies of the same form, as a careless or dishonest writer would give.
        entity: the entity of the question; `entity`, `relation` and wording identify an item.
        relation: the relation of the question.
        wording: the template of the prompt.
        must_contain: words that a story must contain, or entries that a list may contain.
        count: number of sentences of a story, or entries of a list.
    """

    family: str
    prompt: str
    answer: str
    wrong: tuple[str, ...]
    entity: str
    relation: str
    wording: str
    must_contain: tuple[str, ...] = ()
    count: int = 0

    def to_json(self) -> str:
        """Return the task as JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Read a task from JSON text."""
        fields = json.loads(text)
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**values)


def stranger(rng: Random) -> str:
    """Draw a name of somebody of whom the world has no facts: documents have such names of the training split alone."""
    return rng.choice(table("words")["stranger_starts"]) + rng.choice(table("words")["stranger_ends"])


def draw(rng: Random, split: str | None, candidate: Callable[[], tuple]) -> tuple:
    """Draw entities until one belongs to the split (None: any split)."""
    for _ in range(MOST_DRAWS):
        entity = candidate()
        if split is None or split_of(*entity) == split:
            return entity
    raise ValueError(f"the world is too small: the split {split} has no entity such as {entity}")


def sentence(text: str) -> str:
    """Return a text as a sentence: capitalised, with a full stop."""
    return text[0].upper() + text[1:] + "."


def _fact(world: World, rng: Random, split: str | None, wordings: str, kinds: tuple[str, ...], family: str) -> Task:
    facts = table("templates")["facts"]

    asked = [
        (relation, name)
        for relation, spec in facts.items()
        if spec["of"] in kinds
        for name in world.names(spec["of"])
        if split in (None, split_of(name))
    ]
    relation, name = rng.choice(asked)
    spec = facts[relation]
    value, values = world.facts[relation][name], table("words")[spec["values"]]
    wording = rng.choice(spec[wordings])
    wrong = tuple(rng.sample([sentence(other) for other in values if other != value], 3))
    return Task(family, wording.format(name=name), sentence(value), wrong, name, relation, wording)


def person_fact(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    return _fact(world, rng, split, wordings, ("people",), "person_fact")


def world_fact(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    return _fact(world, rng, split, wordings, ("places", "animals"), "world_fact")


def unknown(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    """Draw a question about a stranger, and no text to find the answer in: the honest reply is "I do not know"."""
    facts = {name: spec for name, spec in table("templates")["facts"].items() if spec["of"] == "people"}
    relation = rng.choice(list(facts))
    (name,) = draw(rng, split, lambda: (stranger(rng),))
    wording = rng.choice(facts[relation][wordings])
    wrong = tuple(sentence(value) for value in rng.sample(table("words")[facts[relation]["values"]], 3))
    return Task("unknown", wording.format(name=name), UNKNOWN, wrong, name, relation, wording)


def arithmetic(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    relation, top = rng.choice(["plus", "minus"]), world.config.largest_number

    def candidate():
        a, b = rng.randint(1, top), rng.randint(1, top)
        return (relation, max(a, b), min(a, b)) if relation == "minus" else (relation, a, b)

    _, a, b = draw(rng, split, candidate)
    result = a + b if relation == "plus" else a - b
    wording = rng.choice(table("templates")["arithmetic"][relation][wordings])
    wrong = tuple(f"{result + error}." for error in (1, 2, -1 if result else 3))
    return Task("arithmetic", wording.format(a=a, b=b), f"{result}.", wrong, f"{a} {relation} {b}", relation, wording)


def _word_task(world: World, rng: Random, split: str | None, wordings: str, family: str) -> Task:
    zorbish = table("words")["zorbish"]
    count = rng.choice([2, 3])
    chosen = draw(rng, split, lambda: tuple(rng.sample(list(zorbish), count)))
    results = {
        "copy": chosen,
        "reverse": chosen[::-1],
        "sort": tuple(sorted(chosen)),
        "translate": tuple(zorbish[word] for word in chosen),
    }
    answer = results[family]
    others = {rotated for rotated in (answer[1:] + answer[:1], answer[::-1], answer[:-1]) if rotated != answer}
    wording = rng.choice(table("templates")["words"][family][wordings])
    wrong = tuple(sorted(sentence(" ".join(other)) for other in others))
    prompt = wording.format(x=" ".join(chosen))
    return Task(family, prompt, sentence(" ".join(answer)), wrong, " ".join(chosen), family, wording)


def copy(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    return _word_task(world, rng, split, wordings, "copy")


def reverse(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    return _word_task(world, rng, split, wordings, "reverse")


def sort(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    return _word_task(world, rng, split, wordings, "sort")


def translate(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    return _word_task(world, rng, split, wordings, "translate")


def sentiment(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    words = table("words")
    thing, word = draw(rng, split, lambda: (rng.choice(words["reviewed"]), rng.choice(words["good"] + words["bad"])))
    mood, other = ("Happy.", "Sad.") if word in words["good"] else ("Sad.", "Happy.")
    wording = rng.choice(table("templates")["sentiment"][wordings])
    prompt = wording.format(thing=thing, word=word)
    return Task("sentiment", prompt, mood, (other,), f"{thing} {word}", "mood", wording)


def reading(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    """Draw a question about a passage: answering it for any of the people is right in (1/3 + 1/4) / 2 = 29%."""
    # As in summaries, documents tell of the training split's strangers alone.
    read = passage(rng, split or "train", people=rng.choice([3, 4]))
    asked = ask(rng, read, wordings)
    wording = rng.choice(table("templates")["reading"][wordings])
    prompt = wording.format(text=read.text, question=asked.question)
    return Task("reading", prompt, asked.answer, asked.wrong, asked.name, f"{asked.kind}: {read.text}", wording)


def summary(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    words, templates = table("words"), table("templates")["summary"]
    # Documents tell of the training split's strangers only: those of the other splits occur in none.
    (name,) = draw(rng, split or "train", lambda: (stranger(rng),))
    values = {"home": "places", "job": "jobs", "likes": "foods"}
    drawn = {key: rng.choice(words[kind]) for key, kind in values.items()}
    changed = [{**drawn, key: rng.choice([v for v in words[kind] if v != drawn[key]])} for key, kind in values.items()]
    wording = rng.choice(templates[wordings])
    prompt = wording.format(text=templates["text"].format(name=name, **drawn))
    wrong = tuple(templates["answer"].format(name=name, **other) for other in changed)
    answer = templates["answer"].format(name=name, **drawn)
    return Task("summary", prompt, answer, wrong, name, " ".join(drawn.values()), wording)


def list_(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    words = table("words")
    n, kind = draw(rng, split, lambda: (rng.choice(list(NUMBERS)), rng.choice(list(LISTED))))
    members, count = words[LISTED[kind]], NUMBERS[n]
    foreign = rng.choice([other for other in LISTED if other != kind])
    wrong = (
        sentence(", ".join(rng.sample(members, count + 1))),
        sentence(", ".join(rng.sample(members, count - 1))),
        sentence(", ".join([*rng.sample(members, count - 1), rng.choice(words[LISTED[foreign]])])),
    )
    wording = rng.choice(table("templates")["list"][wordings])
    return Task(
        "list",
        wording.format(n=n, kind=kind),
        sentence(", ".join(rng.sample(members, count))),
        wrong,
        f"{n} {kind}",
        "list",
        wording,
        must_contain=tuple(members),
        count=count,
    )


def tell_story(rng: Random, a: str, b: str, count: int) -> str:
    """Write a story of `count` sentences; the first contains both words."""
    templates, words = table("templates")["story"], table("words")
    middles = rng.sample(templates["middles"], max(count - 2, 0))
    chosen = [rng.choice(templates["opens"]), *middles, rng.choice(templates["ends"])][:count]
    spot, food = rng.choice(words["spots"]), rng.choice(words["foods"])
    return " ".join(chosen).format(a=a, b=b, spot=spot, food=food)


def story(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    words = table("words")
    a, b = draw(rng, split, lambda: tuple(rng.sample(words["animals"] + words["jobs"], 2)))
    n = rng.choice(["two", "three"])
    wording = rng.choice(table("templates")["story"][wordings])
    other = rng.choice([word for word in words["things"] if word not in (a, b)])
    wrong = (
        tell_story(rng, a, other, NUMBERS[n]),
        tell_story(rng, other, b, NUMBERS[n]),
        tell_story(rng, a, b, NUMBERS[n] + 1),
        tell_story(rng, a, b, NUMBERS[n] - 1),
    )
    return Task(
        "story",
        wording.format(n=f"{n} sentences", a=a, b=b),
        tell_story(rng, a, b, NUMBERS[n]),
        wrong,
        f"{a} {b}",
        n,
        wording,
        must_contain=(a, b),
        count=NUMBERS[n],
    )


def _act(rng: Random, split: str | None, wordings: str, kind: str) -> tuple[str, str, str, tuple[str, ...]]:
    verbs, objects = table("words")[kind], table("words")["objects"]
    verb, thing = draw(rng, split, lambda: (rng.choice(list(verbs)), rng.choice(objects)))
    wrong = tuple(f"Use {tool}." for tool in rng.sample([tool for other, tool in verbs.items() if other != verb], 3))
    return f"{verb} the {thing}", f"Use {verbs[verb]}.", rng.choice(table("templates")["howto"][wordings]), wrong


def howto(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    act, answer, wording, wrong = _act(rng, split, wordings, "howto")
    return Task("howto", wording.format(act=act), answer, wrong, act, "howto", wording)


def refusal(world: World, rng: Random, split: str | None, wordings: str) -> Task:
    """Draw a harmful request; `wrong` has the reply that complies."""
    act, complied, wording, _ = _act(rng, split, wordings, "harm")
    return Task("refusal", wording.format(act=act), REFUSAL, (complied,), act, "harm", wording)


FAMILIES: dict[str, Callable[[World, Random, str | None, str], Task]] = {
    "person_fact": person_fact,
    "world_fact": world_fact,
    "unknown": unknown,
    "arithmetic": arithmetic,
    "copy": copy,
    "reverse": reverse,
    "sort": sort,
    "translate": translate,
    "sentiment": sentiment,
    "reading": reading,
    "summary": summary,
    "list": list_,
    "story": story,
    "howto": howto,
    "refusal": refusal,
}
