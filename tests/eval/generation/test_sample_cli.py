"""`align sample` and `align winrate`, and stages that read their files."""

import argparse
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from alignment.cli.evaluate import sample, winrate
from alignment.data.arguments import Source
from alignment.data.preparing.parts import read_part
from alignment.errors import UserError

REWARD = "def words(completions, **columns):\n    return [float(len(c[-1]['content'])) for c in completions]\n"
JUDGE = """
class Shorter:
    def compare(self, prompts, a, b):
        lengths = [(len(x[-1]["content"]), len(y[-1]["content"])) for x, y in zip(a, b, strict=True)]
        return [0.5 if x == y else float(x < y) for x, y in lengths]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampling")
    rows = [{"prompt": f"What has the hat {i}?", "cluster": f"c{i // 2}"} for i in range(8)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "rewards.py").write_text(REWARD + JUDGE)
    return folder


@pytest.fixture(scope="module")
def reward_model(folder, tokenizer):
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder / "judge/checkpoint")
    tokenizer.save_pretrained(folder / "judge/checkpoint")
    return folder / "judge/checkpoint"


def call(verb, *arguments) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.main(parser.parse_args([str(argument) for argument in arguments]))


def sampled(checkpoints, folder, name, *options) -> list[dict]:
    file = folder / name
    prompts = ("--prompts", folder / "prompts.jsonl", "--max_new_tokens", 8)
    assert call(sample, checkpoints / "sft/checkpoint", *prompts, "--output", file, *options) == 0
    return [json.loads(line) for line in file.read_text().split("\n") if line]


def test_completions_and_best_of_n_are_rows_that_sft_reads(checkpoints, folder, capsys):
    reward = ("--reward", f"{folder}/rewards.py:words")
    rows = sampled(checkpoints, folder, "all.jsonl", "--n", 3, *reward)
    assert len(rows) == 24 and {row["sample"] for row in rows} == {0, 1, 2}
    assert all(row["score"] == len(row["completion"][0]["content"]) for row in rows)
    assert rows[0]["cluster"] == "c0" and rows[0]["prompt"][0]["content"] == "What has the hat 0?"
    tops = sampled(checkpoints, folder, "best.jsonl", "--best-of", 3, "--keep_truncated", *reward)
    for number, row in enumerate(tops):
        assert row["score"] == max(one["score"] for one in rows[3 * number : 3 * number + 3])
        assert len(row["messages"][-1]["content"]) == row["score"]
    out = capsys.readouterr().out
    assert "24 replies to 8 prompts" in out and "best of 3" in out
    for name, count in (("all.jsonl", 24), ("best.jsonl", 8)):
        part = read_part(Source(str(folder / name)), "train", "train", "sft", keep=())
        assert len(part.rows) == count, str(part.account)
    with pytest.raises(UserError, match="exists"):
        sampled(checkpoints, folder, "best.jsonl", "--best-of", 3, *reward)


def test_pairs_are_rows_that_reward_and_dpo_read(checkpoints, folder, reward_model, capsys):
    options = ("--pairs", "--n", 6, "--keep_truncated", "--reward", reward_model)
    rows = sampled(checkpoints, folder, "pairs.jsonl", *options)
    assert rows and "prompts without a row" not in capsys.readouterr().out
    for row in rows:
        assert row["score_margin"] == row["score_chosen"] - row["score_rejected"] > 0
        assert [message["role"] for side in ("chosen", "rejected") for message in row[side]] == ["assistant"] * 2
    part = read_part(Source(str(folder / "pairs.jsonl")), "train", "train", "preference", keep=())
    assert len(part.rows) == part.account.read == len(rows), str(part.account)
    for read, row in zip(part.rows, rows, strict=True):
        assert [read[side] for side in ("prompt", "chosen", "rejected")] == [
            row[side] for side in ("prompt", "chosen", "rejected")
        ]


def test_only_ties_is_an_error(checkpoints, folder):
    (folder / "flat.py").write_text("def flat(completions, **columns):\n    return [1.0] * len(completions)\n")
    with pytest.raises(UserError, match="8 prompts: ties"):
        sampled(checkpoints, folder, "none.jsonl", "--pairs", "--keep_truncated", "--reward", f"{folder}/flat.py:flat")
    assert not (folder / "none.jsonl").exists()


def test_only_truncated_replies_is_an_error(checkpoints, folder, capsys):
    options = ("--max_new_tokens", 1, "--best-of", 2, "--reward", f"{folder}/rewards.py:words")
    with pytest.raises(UserError, match=r"(?s)8 prompts: all replies truncated.*--max_new_tokens"):
        sampled(checkpoints, folder, "cut.jsonl", *options)
    assert "16 replies truncated at --max_new_tokens: left out" in capsys.readouterr().out
    assert not (folder / "cut.jsonl").exists()
    assert len(sampled(checkpoints, folder, "cut.jsonl", *options, "--keep_truncated")) == 8


def test_options_that_cannot_be_combined(checkpoints, folder):
    with pytest.raises(UserError, match=r"(?s)--best-of and --pairs.*needs a reward.*too few.*--temperature 0"):
        sampled(checkpoints, folder, "no.jsonl", "--best-of", 1, "--pairs", "--temperature", 0)


def test_win_rate_of_checkpoints_files_and_judges(checkpoints, folder, reward_model, capsys):
    sides = [checkpoints / stage / "checkpoint" for stage in ("sft", "pretrain")]
    options = ("--max_new_tokens", 8, "--n", 6)
    prompts = ("--prompts", folder / "prompts.jsonl")
    call(winrate, *sides, *prompts, *options, "--judge", reward_model, "--json", folder / "w.json")
    result = json.loads((folder / "w.json").read_text())
    assert result["n"] == 6 and result["clusters"] == 3 and result["win"] + result["tie"] + result["loss"] == 6
    assert result["sides"]["a"]["ended"] is not None

    for stage, name in (("sft", "a.jsonl"), ("pretrain", "b.jsonl")):
        options_of_file = ("--max_new_tokens", 8, "--temperature", 0, "--output", folder / name)
        call(sample, checkpoints / stage / "checkpoint", *prompts, *options_of_file)
    call(winrate, folder / "a.jsonl", sides[1], *options, "--judge", reward_model, "--json", folder / "v.json")
    again = json.loads((folder / "v.json").read_text())
    assert [item["outcome"] for item in again["items"]] == [item["outcome"] for item in result["items"]]

    capsys.readouterr()
    call(winrate, folder / "a.jsonl", folder / "b.jsonl", "--judge", f"{folder}/rewards.py:Shorter")
    out = capsys.readouterr().out
    assert "prefers the reply that it sees first 50.0%" in out and "length: A's replies minus B's" in out
    call(winrate, folder / "a.jsonl", folder / "a.jsonl", "--judge", f"{folder}/rewards.py:words")
    out = capsys.readouterr().out
    assert "50.0%" in out and "tied" in out and "8 pairs have the same text" in out
    lines = (folder / "b.jsonl").read_text().splitlines()
    (folder / "b.jsonl").write_text("\n".join(lines[:2:-1]))
    call(winrate, folder / "a.jsonl", folder / "b.jsonl", "--n", 3, "--judge", f"{folder}/rewards.py:words")
    out = capsys.readouterr().out
    assert "on 3 pairs of replies" in out and "left out: 3 replies only of A, 0 only of B" in out


def test_winrate_takes_prompts_for_two_checkpoints_only(checkpoints, folder):
    side, judge = checkpoints / "sft/checkpoint", ("--judge", f"{folder}/rewards.py:words")
    with pytest.raises(UserError, match="two checkpoints need prompts"):
        call(winrate, side, side, *judge)
    file = folder / "one.jsonl"
    file.write_text(json.dumps({"prompt": "p", "completion": "c"}))
    with pytest.raises(UserError, match="has its own prompts"):
        call(winrate, file, side, *judge, "--prompts", "tinyworld:prompts")
    with pytest.raises(UserError, match="no such folder"):
        call(winrate, file, folder / "nowhere", *judge)


def test_a_judge_without_an_opinion_is_no_result(tmp_path, capsys):
    rows = "".join(json.dumps({"prompt": f"p{n}", "completion": "x"}) + "\n" for n in range(3))
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(rows)
    (tmp_path / "silent.py").write_text(
        "def judge(prompts, completions, **columns):\n    return [None] * len(prompts)\n"
    )
    sides = [tmp_path / f"{name}.jsonl" for name in "ab"]
    with pytest.raises(UserError, match="no opinion on any pair"):
        call(winrate, *sides, "--judge", f"{tmp_path}/silent.py:judge", "--json", tmp_path / "w.json")
    assert "3 without an opinion" in capsys.readouterr().out
    assert json.loads((tmp_path / "w.json").read_text())["unjudged"] == 3, "what was asked is kept"
