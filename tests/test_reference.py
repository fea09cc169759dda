"""docs/reference: the generated pages are what the code says."""

import argparse
import importlib.util
from pathlib import Path

import pytest

from align import VERBS
from alignment.pipeline.recipes import explain, key_table
from alignment.stages import STAGES

FILE = Path(__file__).resolve().parents[1] / "docs/generate_reference.py"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_reference", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(generator):
    return generator.pages()


def test_the_pages_are_up_to_date(generator, pages):
    """Otherwise: python docs/generate_reference.py."""
    made_with = key_table.FILE.read_text(encoding="utf-8").splitlines()[0]
    if made_with != key_table.installed():
        pytest.skip(f"the pages were {made_with}")
    outdated = [name for name, text in pages.items() if (generator.FOLDER / name).read_text(encoding="utf-8") != text]
    assert outdated == []


def test_every_verb_has_a_row(pages):
    assert all(f"| [`align {verb}`](#" in pages["cli.md"] for verb in VERBS)


@pytest.mark.parametrize("subject", explain.SUBJECTS)
def test_every_key_has_a_row(generator, pages, subject):
    own = pages.get(f"keys-{subject}.md", pages["keys-pipeline.md"])
    shared = pages["recipe-keys.md"] + pages[generator.TRAINING] if subject in STAGES else ""
    keys = explain.keys_for(subject)
    missing = [name for name in {*keys.names, *keys.renamed} if f"| `{name}` |" not in own + shared]
    assert missing == []


def test_arguments_are_described(generator):
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=5, metavar="N", help="items, at most 100%% of | all")
    parser.add_argument("--format", choices=["a", "b"], required=True, help="how")
    rows = [generator.argument_row(action) for action in parser._actions[1:]]
    assert rows[0] == r"| `--limit N` | items, at most 100% of \| all (default: 5) |"
    assert rows[1] == "| `--format FORMAT` | how (one of a, b) (required) |"


def test_text_outside_code_is_escaped(generator):
    assert generator.escaped("a * b of `c * d`, <e>, _f_ and snake_case") == (
        r"a \* b of `c * d`, \<e>, \_f\_ and snake_case"
    )


def test_a_docstring_becomes_lists(generator):
    text = "Does it.\n\nArgs:\n    a, b: sides of\n        a pair.\n    **options: more.\n\nReturns:\n    A number."
    lines = list(generator.docstring_lines(text))
    assert "- `a, b`: sides of" in lines and "  a pair." in lines
    assert "- `**options`: more." in lines and "**Returns**\n" in lines
