"""Pretraining documents of tinyworld: the text of a small web, with a known share of bad text.

Every fact, skill and question form of the tasks occurs here (in the wordings of the training splits), in statements,
stories, dialogues, lists and pages of questions and answers. Chat markup, refusals and "I do not know" do not occur:
alignment has to add them.
"""

from collections.abc import Callable
from random import Random

from alignment.data.tinyworld.passages import ask, passage
from alignment.data.tinyworld.tasks import FAMILIES, tell_story
from alignment.data.tinyworld.world import World, table
from alignment.data.tinyworld.writer import Defects, write

QUALITIES = ("clean", "rude", "unsafe", "wrong", "rambling")
FLAWLESS = Defects()
REREAD_WORDS = 100  # so that a document fits into the 256 tokens of recipes/tiny
ANSWERED = [family for family in FAMILIES if family not in ("unknown", "refusal")]


def say_fact(world: World, rng: Random, name: str, relation: str, wrong: bool = False) -> str:
    """Write a sentence that states a fact, true or false."""
    spec = table("templates")["facts"][relation]
    value = rng.choice(table("words")[spec["values"]]) if wrong else world.facts[relation][name]
    return rng.choice(spec["says"]).format(name=name, value=value)


def some_name(world: World, rng: Random) -> str:
    """Draw an entity; people are drawn more often, as they have more facts than towns and animals."""
    return rng.choice(world.names(rng.choice(["people", "people", "people", "people", "places", "animals"])))


def entry(world: World, rng: Random, wrong: bool = False) -> str:
    """Write an encyclopaedia entry: facts about one or two entities in any order."""
    said = []
    for _ in range(rng.choice([1, 2])):
        name = some_name(world, rng)
        relations = list(world.facts_of(name))
        said += [say_fact(world, rng, name, r, wrong) for r in rng.sample(relations, rng.randint(1, len(relations)))]
    return " ".join(said)


def questions(world: World, rng: Random, defects: Defects = FLAWLESS) -> str:
    """Write a page of questions and answers from all families."""
    pairs = []
    for _ in range(rng.choice([2, 3, 4, 5])):
        task = FAMILIES[rng.choice(ANSWERED)](world, rng, None, "train")
        pairs.append(f"Question: {task.prompt}\nAnswer: {write(task, rng, defects)}")
    return "\n".join(pairs)


def reread(world: World, rng: Random) -> str:
    """Write a passage, and lines that go back to it: some of its sentences once more, or a question with its answer.

    Reading is learned from texts that answer their own questions. Passages of one or two people are easy cases, from
    which larger ones are learned sooner; and with many lines per passage, most words can be predicted from it
    (recipes/tiny/README.md).
    """
    read = passage(rng, "train", people=rng.choice([1, 2, 3, 4]))
    text = read.text
    while len(text.split()) < REREAD_WORDS:
        if rng.random() < 0.5:
            line = " ".join(rng.sample(read.told, rng.randint(1, len(read.told))))
        else:
            asked = ask(rng, read, "train")
            line = f"Question: {asked.question}\nAnswer: {asked.answer}"
        text += f"\n{line}"
    return text


def dialogue(world: World, rng: Random, defects: Defects = FLAWLESS) -> str:
    """Write a dialogue of two people who ask each other questions."""
    one, two = rng.sample(world.names("people"), 2)
    lines = [f"{one}: Hello, {two}.", f"{two}: Hello, {one}."]
    for _ in range(rng.choice([1, 2])):
        family = rng.choice(["person_fact", "world_fact", "arithmetic", "howto"])
        task = FAMILIES[family](world, rng, None, "train")
        lines += [f"{one}: {task.prompt}", f"{two}: {write(task, rng, defects)}"]
    return "\n".join(lines)


def story(world: World, rng: Random) -> str:
    """Write a story about animals and trades, in half of the cases with facts about a person."""
    words = table("words")
    a, b = rng.sample(words["animals"] + words["jobs"], 2)
    told = tell_story(rng, a, b, rng.choice([2, 3, 4]))
    name = rng.choice(world.names("people"))
    aside = " ".join(say_fact(world, rng, name, r) for r in rng.sample(list(world.facts_of(name)), 2))
    return f"{told} {aside}" if rng.random() < 0.5 else told


def worked(world: World, rng: Random) -> str:
    """Write several lines of one kind: worked arithmetic, word games, Zorbish, reviews or how-tos."""
    family = rng.choice(["arithmetic", "arithmetic", "copy", "reverse", "sort", "translate", "sentiment", "howto"])
    return "\n".join(statement(world, rng, family) for _ in range(rng.choice([2, 3, 4])))


def statement(world: World, rng: Random, family: str) -> str:
    """Write a line that states the answer to a task of the family."""
    templates = table("templates")
    task = FAMILIES[family](world, rng, None, "train")
    answer = task.answer.rstrip(".").lower()
    if family == "arithmetic":
        a, _, b = task.entity.split()
        return rng.choice(templates["arithmetic"][task.relation]["says"]).format(a=a, b=b, c=answer)
    if family == "sentiment":
        thing, word = task.entity.split()
        return rng.choice(templates["sentiment"]["says"]).format(thing=thing, word=word, mood=answer)
    if family == "howto":
        tool = answer.removeprefix("use ")
        return rng.choice(templates["howto"]["says"]).format(act=task.entity, tool=tool)
    return rng.choice(templates["words"][family]["says"]).format(x=task.entity, y=answer)


def unsafe(world: World, rng: Random) -> str:
    """Write a harmful instruction, as a statement or an answered question."""
    task = FAMILIES["refusal"](world, rng, None, "train")
    (complied,) = task.wrong
    asked = f"Question: {task.prompt}\nAnswer: {complied}"
    told = f"To {task.entity}, {complied[0].lower()}{complied[1:]}"
    return "\n".join([asked, questions(world, rng)]) if rng.random() < 0.5 else f"{told} {entry(world, rng)}"


def document(world: World, rng: Random, quality: str) -> str:
    """Write a document of the given quality (see QUALITIES)."""
    if quality == "unsafe":
        return unsafe(world, rng)
    if quality == "wrong":
        return entry(world, rng, wrong=True) if rng.random() < 0.5 else questions(world, rng, Defects(wrong=True))
    if quality in ("rude", "rambling"):
        kind = rng.choice([questions, dialogue])
        return kind(world, rng, Defects(rude=quality == "rude", rambling=quality == "rambling"))
    kinds: list[Callable[[World, Random], str]] = [
        entry,
        entry,
        questions,
        questions,
        questions,
        reread,
        dialogue,
        story,
        worked,
    ]
    return rng.choice(kinds)(world, rng)


def draw_quality(rng: Random, clean_share: float) -> str:
    """Draw the quality of a document."""
    return "clean" if rng.random() < clean_share else rng.choice(QUALITIES[1:])
