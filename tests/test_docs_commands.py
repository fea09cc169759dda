"""Every `align` command that a page names, in a block or within a sentence, has a known verb and known options.

tests/integration/test_docs.py runs the blocks of bash; here are the others too: for a GPU, and with placeholders.
"""

import argparse
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from align import VERBS
from alignment.pipeline.recipes import explain
from alignment.stages import STAGES
from alignment.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
PLACEHOLDERS = {"VERB", "STAGE", "..."}
NESTED = {"model_config", "evals", *STAGES}  # what a dotted key begins with


@cache
def options_of(verb: str) -> set[str]:
    """The options of a verb, and `--KEY` if it takes recipe keys."""
    parser = argparse.ArgumentParser(prog=f"align {verb}")
    importlib.import_module(VERBS[verb][0]).add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings} | {"--debug"}
    return options | ({"--KEY"} if parser.get_default("overrides") is not None else set())


@cache
def recipe_keys() -> set[str]:
    """The recipe keys of all stages, of `evals`, and the inputs of the recipes at hand."""
    inputs = {
        name
        for file in ROOT.glob("recipes/*/pipeline.yaml")
        for name in parse_yaml(file.read_text(encoding="utf-8"), file.name).get("inputs") or {}
    }
    return inputs.union(*(explain.keys_for(subject).names for subject in explain.SUBJECTS))


def commands(page: str) -> list[str]:
    """The commands of a page, continued lines joined."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    indented = [line[4:] for line in prose.splitlines() if line.startswith("    align ")]
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.split(" #")[0] for line in [*lines, *inline, *indented] if line.startswith("align ")]


def mistakes(command: str) -> list[str]:
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "QUOTED", command).split()
    verb = words[1] if len(words) > 1 else ""
    if verb.startswith("-") or verb.endswith(":") or verb in PLACEHOLDERS:  # `align run: ...` is what is printed
        return []
    if verb not in VERBS:
        return [f"no verb {verb!r}: {command}"]
    return [f"{verb} has no {option}: {command}" for option in words[2:] if not known(verb, option)]


def known(verb: str, word: str) -> bool:
    option = word.split("=")[0].rstrip(",:;)")
    if not option.startswith("--") or option == "--":
        return True
    spelt = {name.replace("_", "-") for name in options_of(verb)}
    if option.replace("_", "-") in spelt:
        return True
    first, _, rest = option.removeprefix("--").replace("-", "_").partition(".")
    key = rest.split(".")[0] if rest and first in STAGES else first
    return "--KEY" in options_of(verb) and (key in recipe_keys() | NESTED or first.isupper())


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_known_verbs_and_options(page):
    assert [mistake for command in commands(page) for mistake in mistakes(command)] == []


def test_mistakes_are_found():
    assert mistakes("align evall CHECKPOINT") and mistakes("align eval CHECKPOINT --suit x")
    assert mistakes("align run tiny --dpo.betta 1") and mistakes("align merge DIR --beta 1")
    assert not mistakes("align run tiny --dpo.beta 1 --evals.limit 3") and not mistakes("align sft --learning-rate 1")
