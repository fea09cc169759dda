"""The sample stage on a tiny random model: the same rows whatever the parts, the batches and the kills."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
import tiny_stages
import torch

from alignment.errors import UserError, UserErrors
from alignment.models.gpt import GPTForCausalLM
from alignment.pipeline.recipes.configs import build_configs
from alignment.stages import sample

JUDGED = {"reward_funcs": ["rewards.py:vowels"]}
VERSUS = {"versus_model_path": "other", "num_generations": 1}
WRITES = {"completions": {}, "best": JUDGED, "pairs": JUDGED | {"against": "random"}, "versus": VERSUS}


class Killed(BaseException):
    """In place of a signal: nothing may catch it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny model, and eleven prompts of which some are equal."""
    folder = tiny_stages.make(tmp_path_factory.mktemp("tiny"))
    prompts = [tiny_stages.turns(number, 0)[:1] for number in (0, 1, 2, 0, 3, 0, 4, 5, 1, 6, 0)]
    tiny_stages.write_rows(folder / "some.jsonl", [{"prompt": prompt} for prompt in prompts])
    model = GPTForCausalLM.from_pretrained(folder / "base")
    with torch.no_grad():
        model.lm_head.weight[::7] *= 1.2
    shutil.copytree(folder / "base", folder / "other")
    model.save_pretrained(folder / "other")
    counted = "[sum(one[-1]['content'].count(vowel) for vowel in 'aeiou') for one in completions]"
    (folder / "rewards.py").write_text(f"def vowels(completions, **kwargs):\n    return {counted}\n")
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def run(folder: Path, write: str = "completions", **keys):
    recipe = {
        "output_dir": str(folder), "model_name_or_path": "base", "dataset_name": "some.jsonl", "write": write,
        "num_generations": 3, "max_completion_length": 6, "rows_per_part": 4, "batch_size": 5, "seed": 1,
    } | WRITES[write] | ({"keep_truncated": True} if write != "completions" else {}) | keys  # fmt: skip
    return sample.run(*build_configs(sample.CONFIGS, recipe, "sample.yaml"))


def rows_of(folder: Path) -> list[dict]:
    return pyarrow.parquet.read_table(folder / "data/train-00000.parquet").to_pylist()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """A function that gives the folder of an uninterrupted stage of each kind."""
    made: dict[str, Path] = {}

    def folder_of(write: str) -> Path:
        if write not in made:
            made[write] = tmp_path_factory.mktemp(write) / "sample"
            run(made[write], write)
        return made[write]

    return folder_of


def test_every_reply_is_a_row_and_equal_prompts_get_different_ones(whole):
    rows = rows_of(whole("completions"))
    assert len(rows) == 33 and [row["sample"] for row in rows] == [0, 1, 2] * 11
    assert {name for row in rows for name in row} == {"prompt", "completion", "sample", "tokens", "ended"}
    same = [row["completion"][0]["content"] for row in rows if row["prompt"] == rows[0]["prompt"]]
    assert len(same) == 12 and len(set(same)) > 9  # four equal prompts, in three parts
    stage = json.loads((whole("completions") / "stage.json").read_text())
    assert stage["metrics"]["read"] == 11 and stage["metrics"]["counts"]["replies"] == 33
    assert stage["tokens"] == sum(row["tokens"] for row in rows)
    assert stage["parents"] == {"model_name_or_path": "base"}


@pytest.mark.parametrize(
    ("write", "sizes"),
    [
        ("completions", {"rows_per_part": 3, "batch_size": 32}),
        ("pairs", {"rows_per_part": 100, "batch_size": 2}),
        pytest.param("pairs", {"rows_per_part": 1}, marks=pytest.mark.slow),
        pytest.param("best", {"rows_per_part": 3}, marks=pytest.mark.slow),
    ],
)
def test_parts_and_batches_of_another_size_give_the_same_rows(whole, tmp_path, write, sizes):
    run(tmp_path, write, **sizes)
    assert rows_of(tmp_path) == rows_of(whole(write)) != []
    accounts = [json.loads((one / "data/account.json").read_text()) for one in (tmp_path, whole(write))]
    assert accounts[0] == accounts[1]


@pytest.mark.parametrize(("write", "part"), [("completions", 1), ("pairs", 2), ("versus", 1)])
def test_killed_and_resumed_the_rows_are_the_same_to_the_byte(whole, tmp_path, monkeypatch, write, part):
    folder, original, made = tmp_path / "sample", sample.drawn_part, []

    def dying(*args):
        made.append(args)
        if len(made) == part + 1:
            raise Killed
        return original(*args)

    monkeypatch.setattr(sample, "drawn_part", dying)
    with pytest.raises(Killed):
        run(folder, write)
    run(folder, write)
    assert len(made) == 4 and made[part] == made[part + 1]  # the part that was lost, and no other again
    assert files_of(folder) == files_of(whole(write))


def test_two_checkpoints_answer_each_prompt_and_equal_replies_are_counted(whole, tmp_path):
    rows = rows_of(whole("versus"))
    left_out = [json.loads(line) for line in (whole("versus") / "data/left_out.jsonl").read_text().splitlines()]
    assert {(row["model_a"], row["model_b"]) for row in rows + left_out} == {("base", "other")}
    drawn = {}
    for model in ("base", "other"):
        run(tmp_path / model, model_name_or_path=model, num_generations=1)
        drawn[model] = [row["completion"][0]["content"] for row in rows_of(tmp_path / model)]
    pairs = list(zip(drawn["base"], drawn["other"], strict=True))
    made = [(row["reply_a"][0]["content"], row["reply_b"][0]["content"]) for row in rows]
    assert made == [(a, b) for a, b in pairs if a != b] and 0 < len(made) < 11
    assert [row["left_out"] for row in left_out] == ["equal replies"] * (11 - len(made))
    stage = json.loads((whole("versus") / "stage.json").read_text())
    counts = stage["metrics"]["counts"]
    assert counts["pairs left out: equal replies"] == len(left_out) and counts["replies"] == 22
    assert stage["parents"] == {"model_name_or_path": "base", "versus_model_path": "other"}


def test_versus_needs_two_checkpoints_and_no_reward():
    def refused(**keys) -> str:
        with pytest.raises((UserError, UserErrors)) as caught:
            sample.SampleRecipe("run/sample", model_name_or_path="base", **keys)
        return str(caught.value)

    said = refused(write="versus", temperature=0, reward_model_path="judge")
    for text in ("needs a second checkpoint", "reads no reward", "equal replies to each prompt"):
        assert text in said
    assert "with itself" in refused(write="versus", versus_model_path="base")
    assert "write: two reads no second checkpoint" in refused(write="two", versus_model_path="other")


def test_another_seed_gives_other_rows(whole, tmp_path):
    run(tmp_path, seed=2)
    assert rows_of(tmp_path) != rows_of(whole("completions"))


def test_pairs_hold_two_replies_of_different_score(whole):
    rows, replies = rows_of(whole("pairs")), rows_of(whole("completions"))
    assert rows
    for row in rows:
        sides = [row[side][0]["content"] for side in ("chosen", "rejected")]
        known = [one["completion"][0]["content"] for one in replies if one["prompt"] == row["prompt"]]
        assert set(sides) <= set(known) and sides[0] != sides[1]
        assert row["score_margin"] == row["score_chosen"] - row["score_rejected"] > 0
    counts = json.loads((whole("pairs") / "data/account.json").read_text())["counts"]
    without = sum(count for reason, count in counts.items() if reason.startswith("prompts without a row: "))
    assert len(rows) + without == 11


def test_the_best_reply_has_the_highest_score(whole):
    rows = rows_of(whole("best"))
    assert all(row["n"] == 3 and row["messages"][-1]["role"] == "assistant" for row in rows)
    vowels = [sum(row["messages"][-1]["content"].count(vowel) for vowel in "aeiou") for row in rows]
    assert [row["score"] for row in rows] == vowels


def test_no_pair_at_all_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(UserError, match="made no row") as caught:
        run(tmp_path / "sample", "pairs", min_margin=1e6)
    assert "prompts without a row: ties: " in caught.value.got


def test_mistakes_in_a_recipe_are_found_together():
    wrong = {"output_dir": "x", "write": "pairs", "num_generations": 1, "temperature": 0, "rows_per_part": 0}
    with pytest.raises(UserErrors) as caught:
        build_configs(sample.CONFIGS, wrong, "sample.yaml")
    said = str(caught.value)
    parts = ["rows_per_part leaves no rows", "2 or more with write: pairs", "write: pairs needs a reward"]
    for text in (*parts, "needs different replies"):
        assert text in said


def test_a_folder_that_was_copied_is_read_like_any_data(whole, tmp_path):
    """As `dataset_name: PATH` outside the run."""
    from alignment.data.arguments import DataArguments
    from alignment.data.preparing.load import prepare

    shutil.copytree(whole("pairs") / "data", tmp_path / "copied")
    rows = prepare(DataArguments(str(tmp_path / "copied"), eval_share=0), "preference", 0).splits["train"]
    assert len(rows) == len(rows_of(whole("pairs")))


def test_a_recipe_without_a_model_is_refused_before_anything_runs():
    with pytest.raises((UserError, UserErrors), match="no model_name_or_path"):
        sample.SampleRecipe("run/sample")


def test_a_model_without_a_number_of_positions_leaves_out_the_prompts_that_it_cannot_answer(place, tmp_path):
    """Its tokenizer's limit counts, before any reply is made: 20 tokens, of which 6 are the reply's."""
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

    words = AutoTokenizer.from_pretrained("base", model_max_length=20)
    model = BloomForCausalLM(BloomConfig(vocab_size=len(words), hidden_size=16, n_layer=1, n_head=2))
    for made in (words, model):
        made.save_pretrained(tmp_path / "model")
    long = {"prompt": [{"role": "user", "content": "the cat " * 20}]}
    rows = [{"prompt": tiny_stages.turns(number, 0)[:1]} for number in range(5)]
    tiny_stages.write_rows(tmp_path / "some.jsonl", [*rows, long])
    keys = {"model_name_or_path": str(tmp_path / "model"), "dataset_name": str(tmp_path / "some.jsonl")}
    result = run(tmp_path / "sample", **keys)
    assert result.metrics["read"] == 5
    [dropped] = json.loads((tmp_path / "sample/data.json").read_text())["tokenized"]["train"]["dropped"].values()
    assert dropped == 1
