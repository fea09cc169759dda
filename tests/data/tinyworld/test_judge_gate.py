"""The judge's gate against judges whose agreement is known. Its smoke run is in tests/test_benchmarks.py."""

from pathlib import Path

import pytest

from alignment.data.tinyworld.feedback_tasks import SHARES, draw_pair
from alignment.data.tinyworld.world import World

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import judge_gate

    return judge_gate


class Planted:
    """A judge with a rule: (a, b) -> 1 for a, 0 for b."""

    def __init__(self, rule):
        self.rule = rule

    def compare(self, prompts, a, b):
        return [self.rule(one, two) for one, two in zip(a, b, strict=True)]


def figures(gate, rule, rows=60):
    return gate.judged(lambda principle: Planted(rule), World(), "validation", rows)


def test_a_judge_that_answers_by_position_agrees_with_nothing(gate):
    for row in figures(gate, lambda a, b: 1.0).values():
        assert row["share"] == 0 and row["half"] == 0.5 and row["same"] == 0 and row["A preferred"] == 1
        assert not row["low"] > 0


def test_a_judge_without_an_opinion_is_never_right(gate):
    for row in figures(gate, lambda a, b: None, rows=10).values():
        assert row["share"] == 0 and row["half"] == 0.5 and row["right of same"] is None


def test_a_judge_that_prefers_the_shorter_reply_is_consistent_and_right_where_that_is_better(gate):
    found = figures(gate, lambda a, b: float(len(a) < len(b)))
    for row in found.values():
        assert row["same"] > 0.9 and row["longer preferred"] == 0 and 0.4 < row["A preferred"] < 0.6
        assert row["share"] == pytest.approx(1 - row["longer is better"], abs=0.1)
    assert found["concise"]["share"] > 0.9 > found["harmless"]["share"]


def test_a_judge_that_knows_gold_passes_whatever_it_is_shown_first(gate, monkeypatch):
    better = set()

    def noted(*arguments):
        pair = draw_pair(*arguments)
        better.add((pair.a.text, pair.b.text) if pair.better == "A" else (pair.b.text, pair.a.text))
        return pair

    monkeypatch.setattr(gate, "draw_pair", noted)
    for row in figures(gate, lambda a, b: float((a, b) in better)).values():
        assert row["share"] > 0.95 and row["low"] > gate.GATE and row["rows"] == 60


def test_every_principle_is_drawn(gate):
    assert set(figures(gate, lambda a, b: 1.0, rows=2)) == set(SHARES)
