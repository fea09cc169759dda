"""The recipes on tinyworld ask by the principles and in the words that their judge was taught."""

from pathlib import Path

import pytest

from alignment.data.tinyworld.feedback_tasks import principles
from alignment.data.tinyworld.world import table
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.yaml_text import parse_yaml

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


@pytest.mark.parametrize("recipe", ["constitutional", "rlaif"])
def test_the_principles_are_those_of_the_families(recipe):
    file = RECIPES / recipe / "principles.yaml"
    assert parse_yaml(file.read_text(), str(file)) == list(principles().values())


@pytest.mark.parametrize(
    ("file", "key", "request_kind"),
    [
        ("constitutional/judge.yaml", "template", "judge"),
        ("constitutional/critique.yaml", "critique_template", "critique"),
        ("constitutional/critique.yaml", "revise_template", "revise"),
        ("rlaif/judge-ai.yaml", "template", "judge"),
    ],
)
def test_the_requests_are_those_of_the_families(file, key, request_kind):
    assert read_recipe(RECIPES / file)[key] == table("templates")["feedback"][request_kind]
