"""How the stages read their data: kept clean of eval suites, with an account in the stage's folder."""

import json

import pytest

from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.stages.reward import RewardArguments
from alignment.stages.shared.inputs import load_data
from eval.suites.tinyworld.hooks import load_items


def test_an_injected_eval_item_is_left_out_and_counted(tmp_path):
    """Ten conversations of the project's own, and two that hold an item of the suite: the prompt, or all of a page."""
    item = next(row for row in load_items("person_fact")["items"])
    rows = [{"question": f"What does shelf {number} hold?", "answer": f"Box {number}."} for number in range(10)]
    rows.insert(3, {"question": item["prompt"], "answer": item["target"]})
    rows.insert(7, {"question": "Go on.", "answer": f"Question: {item['prompt']}\nAnswer: {item['target']}"})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = DataArguments(str(path), eval_share=0, decontaminate=["tinyworld"])
    splits = load_data(args, "sft", 0, tmp_path / "stage")
    assert [row["messages"][1]["content"] for row in splits["train"]] == [f"Box {number}." for number in range(10)]
    told = json.loads((tmp_path / "stage/data.json").read_text())
    (account,) = told["accounts"]
    (removal,) = account["removed"]
    assert (account["read"], account["rows"], removal["rows"]) == (12, 10, 2)
    assert removal["reason"] == "holds an item of tinyworld"
    assert [example.split(":")[0] for example in removal["examples"]] == ["usable row 4", "usable row 8"]
    assert item["prompt"] in removal["examples"][0]


def test_a_suite_that_there_is_not_is_an_error(tmp_path):
    with pytest.raises(UserError, match="No such eval suite"):
        load_data(DataArguments("tinyworld:sft", decontaminate=["tinyword"]), "sft", 0, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_name": "a", "dataset_card_split": "train"}, "made on the training rows"),
        ({"datasets": [{"name": "a"}], "dataset_card_split": "test"}, "dataset_card_split belongs to dataset_name"),
    ],
)
def test_the_card_split_is_held_out(options, message):
    with pytest.raises(UserError, match=message):
        RewardArguments(**options)
