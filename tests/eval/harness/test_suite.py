"""Finding and loading suites, including the user's own."""

import json
from pathlib import Path

import pytest

from alignment.errors import UserError
from eval.harness.items import _shown_target, short_name
from eval.harness.suite import item_texts, list_suites, load_suite, suite_digest, suite_formats, suite_name
from eval.suites.tinyworld.hooks import load_documents, load_items

MULTIPLE_CHOICE = """task: choices
custom_dataset: !function rows.load
test_split: test
output_type: multiple_choice
doc_to_text: "The colour of the {{thing}} is"
doc_to_choice: [red, green, blue, white]
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
SMALL_WORLD = {"documents": 50, "items": 60}
ROWS = """from datasets import Dataset

def load(suite_args=None, **_):
    count = (suite_args or {}).get("count", 6)
    return {"test": Dataset.from_list([{"thing": f"hat {i}", "answer": i % 4} for i in range(count)])}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "choices.yaml").write_text(MULTIPLE_CHOICE)
    (tmp_path / "rows.py").write_text(ROWS)
    return tmp_path


def test_the_projects_suites():
    assert {"tinyworld", "tinyworld_bpb", "tinyworld_gold", "gsm8k", "blimp", "text", "core"} <= {*list_suites()}
    assert suite_formats("tinyworld") == ("plain", "chat") and suite_formats("tinyworld_bpb") == ("plain",)
    assert suite_name("tinyworld") == "tinyworld" and suite_name("a/b/mine.yaml") == "mine.yaml"


def test_a_folder_and_its_group(folder, model, tokenizer):
    from eval.harness.run_suite import evaluate

    assert list(load_suite(str(folder), "plain").tasks) == ["choices"]
    (folder / "colours.yaml").write_text(
        "group: colours\ntask: [choices]\naggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    )
    for path in (folder, folder / "colours.yaml"):
        record = evaluate("unsaved", str(path), "plain", folder / "run", loaded=(model, tokenizer))
        task, group = record["tasks"]
        assert (group["task"], group["members"], group["value"]) == ("colours", ["choices"], task["value"])
        assert task["chance"] == 0.25 and task["n"] == 6


def test_suite_args_reach_the_data(folder):
    suite = load_suite(str(folder / "choices.yaml"), "plain", suite_args={"count": 9})
    assert len(suite.tasks["choices"].eval_docs) == 9


def test_digest_covers_settings_functions_and_rows(folder):
    def digest(**options):
        return suite_digest(load_suite(str(folder / "choices.yaml"), "plain", **options))

    first = digest()
    assert first == digest()
    assert first != digest(suite_args={"count": 7})
    (folder / "rows.py").write_text(ROWS + "\n# changed\n")
    second = digest()
    assert second != first
    (folder / "choices.yaml").write_text(MULTIPLE_CHOICE.replace("white", "black"))
    assert digest() != second


def test_digest_does_not_depend_on_the_path(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for file in folder.iterdir():
        (other / file.name).write_text(file.read_text())
    assert suite_digest(load_suite(str(folder), "plain")) == suite_digest(load_suite(str(other), "plain"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a list", "could not be loaded"),
        ("task: [unclosed", "could not be loaded"),
        ("dataset_path: json", "Not an lm-eval suite|could not be loaded"),
        (MULTIPLE_CHOICE.replace("rows.load", "rows.missing"), "has no function"),
        (MULTIPLE_CHOICE.replace("metric: acc", "metric: no_such_metric"), "no_such_metric"),
    ],
)
def test_broken_suites(folder, text, problem):
    (folder / "broken.yaml").write_text(text)
    with pytest.raises(UserError, match=problem):
        load_suite(str(folder / "broken.yaml"), "plain")


def test_an_unknown_suite_lists_the_projects_suites():
    with pytest.raises(UserError, match="tinyworld, tinyworld_bpb, tinyworld_gold"):
        load_suite("tinyword", "plain")


@pytest.mark.parametrize("suite", ["tinyworld", "tinyworld_gold", "tinyworld_bpb"])
def test_tinyworld_suites_on_the_validation_split(suite):
    def rows(**suite_args):
        loaded = load_suite(suite, "plain", suite_args=SMALL_WORLD | suite_args)
        return {json.dumps(row, sort_keys=True) for task in loaded.tasks.values() for row in task.eval_docs}

    assert rows() == rows(split="test")
    validation = rows(split="validation")
    assert validation
    shared = [json.loads(row) for row in rows() & validation]
    if suite == "tinyworld_bpb":  # both splits of documents have facts of one world: a single sentence may be the same
        shared = [row for row in shared if row["text"].count(".") > 1]
    assert not shared


def test_unknown_suite_args():
    with pytest.raises(UserError, match="poeple"):
        load_suite("tinyworld", "plain", suite_args={"poeple": 3})


def test_a_format_that_a_suite_lacks():
    with pytest.raises(UserError, match="plain"):
        load_suite("tinyworld_bpb", "chat")


def test_suite_in_at_most_twenty_lines(suite):
    assert len(Path(suite).read_text().splitlines()) <= 20
    assert json.loads(Path(suite).with_name("rows.jsonl").read_text().splitlines()[0])


def test_item_texts_are_the_prompts_of_every_format():
    texts = item_texts("tinyworld?" + "&".join(f"{key}={value}" for key, value in SMALL_WORLD.items()))
    asked = load_items(suite_args=SMALL_WORLD)["items"]["prompt"]
    assert set(texts) == {*asked, *(f"Question: {prompt}\nAnswer:" for prompt in asked)}
    assert len(texts) == len(set(texts))


def test_item_texts_of_scored_texts_are_the_texts():
    documents = [row["text"] for quality in ("clean", "rude") for row in load_documents(quality)["items"]]
    assert set(documents) <= set(item_texts("tinyworld_bpb"))


def test_item_texts_of_choices_without_a_prompt_are_the_choices(tmp_path):
    rows = [{"good": "A dog barks.", "bad": "A dog bark."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "pairs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[good, bad]}}",
    }
    (tmp_path / "pairs.yaml").write_text(json.dumps(task))
    assert item_texts(str(tmp_path / "pairs.yaml")) == ["A dog barks.", "A dog bark."]


def test_a_misspelt_suite_is_suggested(tmp_path):
    (tmp_path / "sums.jsonl").touch()
    for name, meant in (("tinyworl", "tinyworld"), (f"{tmp_path}/sum.jsonl", f"{tmp_path}/sums.jsonl")):
        with pytest.raises(UserError) as refused:
            load_suite(f"{name}?num_fewshot=1", "plain")
        assert refused.value.fix == f"did you mean '{meant}'?"


def test_an_answer_that_is_an_example_is_named_as_such():
    """Any list of four, or any story, is right: the target is one of them."""
    for format in ("plain", "chat"):
        for name, task in load_suite("tinyworld", format, suite_args=SMALL_WORLD).tasks.items():
            doc = task.eval_docs[0]
            shown = _shown_target({"doc": doc, "target": task.doc_to_target(doc)}, task)
            assert shown == ("for example: " * (short_name(name) in ("list", "story"))) + doc["target"]
