"""The statistics of people's votes, and `align winrate VOTES`."""

import json

import numpy as np
import pytest

import align
from alignment.errors import UserError
from eval.generation.votes import read_votes, vote_figures


def row(number: int, vote: str, models=("base", "sft"), digests=("1" * 64, "2" * 64), prompt: str | None = None):
    """A line of a file of votes; the first model is shown first."""
    turns = [{"role": "user", "content": prompt or f"question {number}"}]
    sides = {side: {"name": n, "digest": d} for side, n, d in zip("ab", models, digests, strict=True)}
    hour, minute = divmod(number, 60)
    time = f"2026-11-30T{10 + hour:02d}:{minute:02d}:00.000+00:00"
    return {"prompt": turns, "replies": {"a": "x", "b": "y"}, "vote": vote, "models": sides, "time": time}


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def swapped(one: dict) -> dict:
    """The same preference with the sides exchanged."""
    models = {"a": one["models"]["b"], "b": one["models"]["a"]}
    return one | {"models": models, "vote": {"a": "b", "b": "a"}.get(one["vote"], one["vote"])}


def test_a_win_counts_for_the_model_on_whichever_side_it_was_shown(tmp_path):
    votes = [row(n, vote) for n, vote in enumerate(["b"] * 12 + ["a"] * 4 + ["tie"] * 2 + ["both_bad"] * 2)]
    plain = vote_figures(read_votes(write(tmp_path / "plain.jsonl", votes)))
    mixed = [swapped(one) if number % 2 else one for number, one in enumerate(votes)]
    other = vote_figures(read_votes(write(tmp_path / "mixed.jsonl", mixed)))
    (pair,) = plain["pairs"]
    assert (pair["a"], pair["b"]) == ("base", "sft")
    assert (pair["win"], pair["tie"], pair["loss"]) == (4, 4, 12)
    assert pair["win_rate"] == pytest.approx(0.3) and pair["ci_low"] < 0.3 < pair["ci_high"] < 0.6
    assert other["pairs"] == plain["pairs"]
    for one, another in zip(plain["ratings"], other["ratings"], strict=True):
        assert one["name"] == another["name"] and one["rating"] == pytest.approx(another["rating"], abs=0.1)
    assert plain["ratings"][0]["name"] == "sft"
    # Bradley-Terry of two: the log-odds of the win rate.
    assert plain["ratings"][0]["rating"] == pytest.approx(1000 + 400 * np.log10(0.7 / 0.3), abs=1)
    assert plain["position"]["first"] == 0.25 and other["position"]["first"] == 0.5


def test_position_bias_is_shown_with_an_interval(tmp_path):
    figures = vote_figures(read_votes(write(tmp_path / "v.jsonl", [row(n, "a") for n in range(40)])))
    position = figures["position"]
    assert position["first"] == 1 and position["n"] == 40 and position["ci_low"] > 0.9
    assert figures["ratings"][0]["bounded"] is False


def test_votes_on_one_prompt_are_one_cluster(tmp_path):
    repeated = [row(n, "ab"[n % 3 == 0], prompt=f"question {n // 8}") for n in range(32)]
    apart = [row(n, "ab"[n % 3 == 0]) for n in range(32)]
    one, other = (vote_figures(read_votes(write(tmp_path / "v.jsonl", rows))) for rows in (repeated, apart))
    assert one["pairs"][0]["clusters"] == 4 == one["prompts"] and other["pairs"][0]["clusters"] == 32
    assert one["pairs"][0]["win_rate"] == other["pairs"][0]["win_rate"]


def test_other_weights_of_the_same_name_are_another_model(tmp_path):
    votes = [row(0, "a"), row(1, "b", digests=("1" * 64, "3" * 64)), row(2, "a", digests=("1" * 64, None))]
    figures = vote_figures(read_votes(write(tmp_path / "v.jsonl", votes)))
    assert {pair["b"] for pair in figures["pairs"]} == {"sft@22222222", "sft@33333333", "sft@unknown"}


def test_models_that_never_met_have_no_ratings_but_a_reason(tmp_path):
    votes = [row(0, "a"), row(1, "b", models=("dpo", "ppo"))]
    figures = vote_figures(read_votes(write(tmp_path / "v.jsonl", votes)))
    assert figures["ratings"] == [] and "connect all checkpoints" in figures["ratings_note"]


def test_lines_that_are_no_votes_are_named(tmp_path):
    path = tmp_path / "v.jsonl"
    write(path, [row(0, "a"), {"prompt": "x"}, row(1, "b")])
    with path.open("a") as file:
        file.write('{"prompt": [{"ro')
    figures = vote_figures(read_votes(path))
    assert figures["n"] == 2 and figures["unreadable"] == [2, 4]
    with pytest.raises(UserError, match="has no votes"):
        read_votes(write(tmp_path / "rows.jsonl", [{"prompt": "x", "completion": "y"}]))


@pytest.mark.parametrize(("step", "unit", "buckets"), [(1, "minute", 5), (60, "hour", 5)])
def test_the_course_of_votes(tmp_path, step, unit, buckets):
    course = vote_figures(read_votes(write(tmp_path / "v.jsonl", [row(n * step, "tie") for n in range(5)])))["course"]
    assert course["unit"] == unit and len(course["buckets"]) == buckets
    assert sum(one["tie"] for one in course["buckets"]) == 5
    assert vote_figures(([], []))["course"]["buckets"] == []


def test_the_verb_prints_and_writes_the_figures(tmp_path, capsys):
    path = write(tmp_path / "v.jsonl", [row(n, "aab"[n % 3]) for n in range(30)])
    assert align.main(["winrate", path, "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    assert "30 votes on 30 prompts: 30 name a winner, 0 ties" in out
    assert (
        "win rate of base over sft: 66.7% [" in out and "rating of base: 1000" in out and "shown first won 66.7%" in out
    )
    assert json.loads((tmp_path / "out.json").read_text())["pairs"][0]["win"] == 20


def test_what_the_verb_refuses(tmp_path, capsys):
    path = write(tmp_path / "v.jsonl", [row(0, "a")])
    assert align.main(["winrate", path, "--judge", "x.py:f"]) == align.USER_ERROR
    assert "needs no such option" in capsys.readouterr().err
    assert align.main(["winrate", str(tmp_path / "nowhere")]) == align.USER_ERROR
    assert "one side is missing" in capsys.readouterr().err
    assert align.main(["winrate", path, path]) == align.USER_ERROR
    assert "two sides need a judge" in capsys.readouterr().err
