"""A PPO step is the same whatever the batch sizes, the order of the rows, the padding and the attention backend."""

import pytest
from covering import covering, every
from ppo_cases import CASES, SETTINGS, Case, Setting, allowed, check_step


def split(row: dict) -> tuple[Case, Setting]:
    return Case(**{name: row[name] for name in CASES}), Setting(**{name: row[name] for name in SETTINGS})


def named(row: dict) -> str:
    return "-".join(str(value) for value in row.values())


DESIGN = covering(CASES | SETTINGS, allowed)


@pytest.mark.parametrize("row", DESIGN, ids=named)
def test_a_step_is_that_of_its_rows_one_by_one(row, bases, monkeypatch):
    check_step(*split(row), bases, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(CASES, allowed), ids=named)
def test_every_setting_gives_the_same_step(case, bases, monkeypatch):
    for setting in every(SETTINGS):
        check_step(Case(**case), Setting(**setting), bases, monkeypatch)
