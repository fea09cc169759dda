"""What is wrong with a stage that reads a data stage's rows shows before either has run."""

from pathlib import Path

import pytest
import tiny_stages
import yaml

from alignment.errors import UserError, UserErrors
from alignment.pipeline.graph import load_pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tiny_stages.make(tmp_path_factory.mktemp("tiny"))
    (folder / "own.py").write_text(
        "class First:\n    def compare(self, prompts, a, b):\n        return [1.0] * len(prompts)\n"
        "def known(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    principle = {"name": "kind", "critique": "What is rude?", "revise": "Be kind."}
    (folder / "principles.yaml").write_text(yaml.safe_dump([principle]))
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


MAKERS = {
    "sample": {"model_name_or_path": "base", "dataset_name": "prompts.jsonl", "reward_funcs": ["own.py:known"]},
    "judge": {"judges": ["own.py:First"], "dataset_name": "pairs.jsonl"},
    "critique": {"model_name_or_path": "base", "dataset_name": "sft.jsonl", "principles": "principles.yaml"},
}
READERS = {
    **{name: {"model_name_or_path": "base", "max_length": 64} for name in ("sft", "reward", "dpo", "kto")},
    "judge": {"judges": ["own.py:First"]},
    "critique": {"model_name_or_path": "base", "principles": "principles.yaml"},
}
SLOW = {"marks": pytest.mark.slow}
TWO = {"reply_a": "chosen", "reply_b": "rejected"}


def load(tmp_path: Path, maker: str, reader: str, made_by: dict, keys: dict):
    name = reader if reader != maker else f"{reader}-second"
    recipes = {maker: MAKERS[maker] | made_by, name: READERS[reader] | {"dataset_name": maker} | keys}
    for stage, recipe in recipes.items():
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    stages = {stage: f"{stage}.yaml" for stage in recipes}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"name": "x", "stages": stages}, sort_keys=False))
    return load_pipeline(tmp_path, output_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("maker", "reader", "made_by", "keys"),
    [
        ("sample", "sft", {}, {}),
        pytest.param("sample", "sft", {"write": "best"}, {}, **SLOW),
        pytest.param("sample", "dpo", {"write": "pairs"}, {}, **SLOW),
        ("sample", "judge", {"write": "two"}, {"columns": TWO}),
        pytest.param("sample", "dpo", {"write": "two"}, {"columns": TWO | {"family": "label"}}, **SLOW),
        ("judge", "dpo", {}, {"label_column": "preference"}),
        ("judge", "judge", {}, {"min_agreement": 0.7}),  # the pairs may have gold scores
        pytest.param("critique", "sft", {}, {}, **SLOW),
        pytest.param("critique", "reward", {}, {"card_subset": "family"}, **SLOW),
        ("critique", "judge", {}, {"min_agreement": 0.7, "gold_func": "own.py:known"}),
    ],
)
def test_rows_that_fit(tmp_path, maker, reader, made_by, keys):
    load(tmp_path, maker, reader, made_by, keys)


@pytest.mark.parametrize(
    ("maker", "reader", "made_by", "keys", "says"),
    [
        ("sample", "dpo", {}, {}, "names rows of another kind than dpo reads"),
        pytest.param("sample", "reward", {"write": "best"}, {}, "names rows of another kind than reward reads", **SLOW),
        ("sample", "judge", {"write": "two"}, {}, r"columns: {reply_a: .*reply_b: "),
        pytest.param("sample", "kto", {}, {}, "another kind than kto", **SLOW),
        pytest.param("sample", "critique", {"write": "two"}, {}, "another kind than critique", **SLOW),
        ("sample", "dpo", {"write": "pairs"}, {"label_column": "preference"}, "without the column 'preference'"),
        (
            "sample",
            "judge",
            {"write": "two"},
            {"columns": TWO, "min_agreement": 0.7},
            "min_agreement without gold_func",
        ),
        ("critique", "judge", {}, {"min_agreement": 0.7}, "without the column 'gold_chosen'"),
        (
            "sample",
            "judge",
            {"write": "pairs"},
            {"gold_func": "rules:answer_match?"},
            "'answer', which gold_func needs",
        ),
    ],
)
def test_rows_that_do_not_fit(tmp_path, maker, reader, made_by, keys, says):
    with pytest.raises((UserError, UserErrors), match=says) as caught:
        load(tmp_path, maker, reader, made_by, keys)
    assert f"{reader}.yaml: dataset_name names rows" in str(caught.value) and f"rows of {maker}" in str(caught.value)
    assert not (tmp_path / "run").exists()
