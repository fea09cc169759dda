"""Principles of one's own and templates for their questions: what is read, and what is refused before anything runs."""

import pytest

from alignment.errors import UserError
from reward_models.judges import principle_prompts as prompts
from reward_models.judges.principles import CRITIC, JUDGE, RATER, Principle, principles_of, read_principles

WRONG = {  # a file's text, and what its error says
    "": "no list of principles",
    "[]": "an empty list",
    "name: honest\nprefer: Which?": "no list of principles",
    "- honest": "principle 1 is no mapping",
    "- prefer: Which?": "principle 1 has no name",
    "- {name: '', prefer: Which?}": "principle 1: name is no text",
    "- {name: 3, prefer: Which?}": "got: 3",
    "- {name: honest}": "principle 'honest' has no prefer, which a judge needs",
    "- {name: honest, prefer: ' '}": "prefer is no text",
    "- {name: honest, prefer: [a]}": "got: ['a']",
    "- {name: honest, prefer: Which?, revise: ''}": "remove the line revise:",
    "- {name: honest, prefer: Which?, critic: x}": "did you mean 'critique'?",
    "- {name: honest, prefer: Which?}\n- {name: kind, prefer: Which?}\n- {name: honest, prefer: X}": "principles 1 and",
    "- name: [": "not valid YAML",
}


def written(tmp_path, text: str):
    (tmp_path / "principles.yaml").write_text(text)
    return tmp_path / "principles.yaml"


def words(error) -> str:
    return " ".join(str(error.value).split())


def test_a_file_of_principles(tmp_path):
    text = "- name: honest\n  prefer: Which is honest?\n  critique: What lies?\n  revise: |\n    Say\n    it.\n"
    file = written(tmp_path, text + "- {name: kind, prefer: Which is kind?}\n")
    honest, kind = read_principles(file)
    assert honest == Principle("honest", "Which is honest?", "What lies?", "Say\nit.")
    assert (kind.critique, kind.rate) == ("", "")
    with pytest.raises(UserError) as caught:
        read_principles(file, CRITIC + RATER)
    for key, reader in (("critique", "a critic"), ("revise", "a critic"), ("rate", "a judge")):
        assert f"principle 'kind' has no {key}, which {reader} needs" in words(caught)
    assert "'honest' has no rate" in words(caught) and "'honest' has no critique" not in words(caught)


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_in_principles(text, tmp_path):
    with pytest.raises(UserError) as caught:
        read_principles(written(tmp_path, text))
    assert WRONG[text] in words(caught) and "principles.yaml" in words(caught)


def test_all_mistakes_are_reported_together(tmp_path):
    with pytest.raises(UserError) as caught:
        principles_of([{"nam": "x"}, {"name": "y"}, 7], "the key principles", JUDGE)
    assert "did you mean 'name'?" in words(caught)
    for part in ("principle 1 has no name", "'y' has no prefer", "principle 3 is no mapping"):
        assert f"the key principles: {part}" in words(caught) or part in words(caught)


def test_a_file_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_principles(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("- {name: höflich}".encode("latin-1"))
    with pytest.raises(UserError, match="not a text in UTF-8"):
        read_principles(tmp_path / "latin.yaml")


def test_templates_as_text_or_file(tmp_path):
    text = "{principle}\n{a} or {b}? Answer \\boxed{A} or \\boxed{B}."
    assert prompts.pair_template(text, "template") == text
    (tmp_path / "question.txt").write_text(text, encoding="utf-8")
    assert prompts.pair_template(str(tmp_path / "question.txt"), "template") == text
    commands = "{principle}{a}{b} \\boxed{yes} \\frac{one}{two} {1} {X}"
    assert prompts.pair_template(commands, "template") == commands
    assert prompts.pair_template("{a}{b}", "template", with_principle=False) == "{a}{b}"
    assert prompts.rating_template("{principle} {completion}", "template")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{principle} {a}", "does not show {b}"),
        ("{a} {b}", "does not show {principle}"),
        ("{principle} {reply}", "does not show {a}, {b}"),
        ("{principle} {prompts} {a} {b}", "write {prompt} for {prompts}"),
        ("{principle} {a} {b} {format}", "unknown field {format}"),
        ("{principle} {a} {b} {format}", "the fields {principle}, {prompt}, {a}, {b}"),
        ("question.txt", "template: no file question.txt"),
    ],
)
def test_templates_that_do_not_show_their_subject_are_refused(template, says):
    with pytest.raises(UserError) as caught:
        prompts.pair_template(template, "template")
    assert says in words(caught)
    with pytest.raises(UserError, match="does not show"):
        prompts.rating_template("{principle} {a}", "template")


def test_the_default_questions_show_all_fields():
    for template in (prompts.PRINCIPLE_PAIR_PROMPT, prompts.WRITTEN_PRINCIPLE_PAIR_PROMPT):
        assert prompts.pair_template(template, "default") == template and "{prompt}" in template
    for template in (prompts.PRINCIPLE_RATING_PROMPT, prompts.WRITTEN_PRINCIPLE_RATING_PROMPT):
        assert prompts.rating_template(template, "default") == template and "{lowest}" in template
