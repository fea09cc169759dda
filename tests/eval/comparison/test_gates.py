"""Limits on regressions."""

import pytest

from alignment.errors import UserError
from eval.comparison.gates import Gate, check_gates, parse_gate


def row(delta, verdict="worse", *, low=None, high=None, task="t", metric="acc", higher_is_better=True):
    names = {"a": "sft", "b": "dpo", "suite": "toy", "format": "plain", "variant": {}, "task": task, "metric": metric}
    found = {"delta": delta, "ci_low": low, "ci_high": high, "higher_is_better": higher_is_better}
    return names | found | {"verdict": verdict}


def failed(one: dict, limit: float, strict: bool = False) -> bool:
    (outcome,) = check_gates([one], [Gate("t", limit)], strict=strict)
    return outcome["failed"]


def test_gates_are_parsed():
    assert parse_gate("gsm8k:0.02") == Gate("gsm8k", 0.02)
    assert parse_gate("a:b*/acc:0") == Gate("a:b*/acc", 0.0)


@pytest.mark.parametrize("text", ["gsm8k", ":0.1", "gsm8k:", "gsm8k:-0.1", "gsm8k:nan", "gsm8k:inf", "gsm8k:2%"])
def test_invalid_gates(text):
    with pytest.raises(UserError, match="TASK:DELTA"):
        parse_gate(text)


def test_a_gate_fails_for_a_loss_beyond_it_that_is_not_noise():
    assert failed(row(-0.06), 0.05)
    assert not failed(row(-0.06, "tied"), 0.05)
    assert not failed(row(-0.04), 0.05)
    assert not failed(row(0.06, "better"), 0.05)
    assert failed(row(-0.001), 0.0) and not failed(row(0.0, "tied"), 0.0)


def test_a_loss_equal_to_the_limit_is_allowed():
    assert not failed(row(0.5 - 0.55), 0.05)  # 0.05000000000000004


def test_less_can_be_better():
    assert failed(row(0.06, higher_is_better=False), 0.05)
    assert not failed(row(-0.06, "better", higher_is_better=False), 0.05)
    assert failed(row(0.01, "tied", low=-0.02, high=0.06, higher_is_better=False), 0.05, strict=True)
    assert not failed(row(0.01, "tied", low=-0.09, high=0.04, higher_is_better=False), 0.05, strict=True)


def test_strict_requires_the_loss_to_be_ruled_out():
    assert failed(row(-0.01, "tied", low=-0.06, high=0.04), 0.05, strict=True)
    assert not failed(row(-0.01, "tied", low=-0.04, high=0.02), 0.05, strict=True)
    assert not failed(row(-0.03, "worse", low=-0.04, high=-0.02), 0.05, strict=True)
    assert failed(row(0.0, "tied"), 0.05, strict=True)  # no interval: nothing is ruled out
    assert not failed(row(0.0, "tied", low=0.0, high=0.0), 0.0, strict=True)


def test_an_unknown_verdict_does_not_pass_a_loss_beyond_the_limit():
    assert failed(row(-0.06, "unknown"), 0.05) and not failed(row(-0.04, "unknown"), 0.05)
    assert not failed(row(0.06, "unknown"), 0.05) and failed(row(0.06, "unknown"), 0.05, strict=True)


def test_without_an_interval_the_verdict_better_rules_a_loss_out():
    assert not failed(row(1.0, "better"), 0.05, strict=True) and failed(row(-1.0, "worse"), 0.05, strict=True)


def test_globs_cover_tasks_and_with_a_slash_metrics():
    rows = [row(-0.1, task=task, metric=metric) for task in ("mmlu_law", "mmlu_art", "arc") for metric in ("acc", "f1")]
    for tasks, count in (("mmlu_*", 4), ("arc", 2), ("mmlu_*/acc", 2), ("*/f1", 3), ("*", 6)):
        assert len(check_gates(rows, [Gate(tasks, 0.0)])) == count
    (one,) = check_gates(rows, [Gate("arc/f1", 0.02)])
    assert (one["gate"], one["loss"], one["loss_high"], one["failed"]) == ("arc/f1:0.02", 0.1, None, True)


def test_a_gate_that_covers_no_task_is_refused():
    with pytest.raises(UserError, match=r"(?s)not compared.*gsm9k, tt.*\bt\b"):
        check_gates([row(0.0)], [Gate("t", 0.0), Gate("gsm9k", 0.0), Gate("tt", 0.0)])
