"""A PPO step does not depend on batch sizes, row order, padding or attention backend."""

import pytest
from covering import covering, every
from ppo_cases import CASES, SETTINGS, Case, Setting, allowed, check_alone, check_step
from ppo_runs import PTX, TEXTS, check_evaluation, check_run


def split(row: dict) -> tuple[Case, Setting]:
    return Case(**{name: row[name] for name in CASES}), Setting(**{name: row[name] for name in SETTINGS})


def named(row: dict) -> str:
    return "-".join(str(value) for value in row.values())


DESIGN = covering(CASES | SETTINGS, allowed)


@pytest.mark.parametrize("row", DESIGN, ids=named)
def test_a_step_equals_the_step_computed_row_by_row(row, bases, monkeypatch):
    check_step(*split(row), bases, monkeypatch)


VARIANTS = {"kl-in-reward": {}, "kl-in-loss": {"kl_placement": "loss", "kl_estimator": "k3"}}
VARIANTS |= {"ptx": {"texts": TEXTS, **PTX}}
MODES = [("gpt", False, "separate"), ("moe", False, "shared_head"), ("llama", True, "lora")]


@pytest.mark.parametrize(("model", "adapter", "critic"), MODES)
def test_a_row_gets_the_same_values_in_a_batch_and_alone(model, adapter, critic, bases, monkeypatch):
    check_alone(Case(model, adapter, critic), Setting(eval_batch=3, micro_batch=2, padding=2), bases, monkeypatch)


@pytest.mark.parametrize(("model", "adapter", "critic"), MODES)
@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_several_steps_do_not_depend_on_the_setting(keys, model, adapter, critic, bases, monkeypatch):
    setting = Setting(eval_batch=3, padding=2, attention="eager")
    check_run(Case(model, adapter, critic), 1, setting, bases, monkeypatch, **keys)


@pytest.mark.parametrize(
    ("batch_size", "order"), [(1, range(7)), (3, range(7)), (3, (6, 2, 4, 0, 5, 1, 3)), (16, range(7))]
)
def test_an_evaluation_covers_all_completions_with_any_batch_size(batch_size, order, bases, monkeypatch):
    check_evaluation(Case(), batch_size, bases, monkeypatch, tuple(order))


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(CASES, allowed), ids=named)
def test_every_setting_gives_the_same_step(case, bases, monkeypatch):
    """Every combination of batch sizes and order; padding and attention backend alternate."""
    batches = {name: SETTINGS[name] for name in ("eval_batch", "micro_batch", "order")}
    for place, setting in enumerate(every(batches)):
        other = {"padding": SETTINGS["padding"][place // 2 % 2], "attention": SETTINGS["attention"][place // 4 % 2]}
        check_step(Case(**case), Setting(**setting, **other), bases, monkeypatch)
