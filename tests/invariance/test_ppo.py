"""A PPO step is the same whatever the batch sizes, the order of the rows, the padding and the attention backend."""

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
def test_a_step_is_that_of_its_rows_one_by_one(row, bases, monkeypatch):
    check_step(*split(row), bases, monkeypatch)


VARIANTS = {"kl-in-reward": {}, "kl-in-loss": {"kl_placement": "loss", "kl_estimator": "k3"}}
VARIANTS |= {"ptx": {"texts": TEXTS, **PTX}}
MODES = [("gpt", False, "separate"), ("moe", False, "shared_head"), ("llama", True, "lora")]


@pytest.mark.parametrize(("model", "adapter", "critic"), MODES)
def test_a_row_is_given_what_it_is_given_alone(model, adapter, critic, bases, monkeypatch):
    check_alone(Case(model, adapter, critic), Setting(eval_batch=3, micro_batch=2, padding=2), bases, monkeypatch)


@pytest.mark.parametrize(("model", "adapter", "critic"), MODES)
@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_several_steps_are_the_same(keys, model, adapter, critic, bases, monkeypatch):
    setting = Setting(eval_batch=3, padding=2, attention="eager")
    check_run(Case(model, adapter, critic), 1, setting, bases, monkeypatch, **keys)


@pytest.mark.parametrize(
    ("batch_size", "order"), [(1, range(7)), (3, range(7)), (3, (6, 2, 4, 0, 5, 1, 3)), (16, range(7))]
)
def test_an_evaluations_figures_are_of_all_its_completions(batch_size, order, bases, monkeypatch):
    check_evaluation(Case(), batch_size, bases, monkeypatch, tuple(order))


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(CASES, allowed), ids=named)
def test_every_setting_gives_the_same_step(case, bases, monkeypatch):
    """Every product of batch sizes and order; padding and the attention backend change from one to the next."""
    batches = {name: SETTINGS[name] for name in ("eval_batch", "micro_batch", "order")}
    for place, setting in enumerate(every(batches)):
        other = {"padding": SETTINGS["padding"][place // 2 % 2], "attention": SETTINGS["attention"][place // 4 % 2]}
        check_step(Case(**case), Setting(**setting, **other), bases, monkeypatch)
