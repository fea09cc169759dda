"""A step of the trainers of TRL is that of its rows one by one, in any batches, order and padding."""

import pytest
import stage_cases as cases
from covering import covering, every


def split(row: dict) -> tuple[cases.Case, cases.Setting]:
    return (
        cases.Case(**{name: row[name] for name in cases.CASES}),
        cases.Setting(**{name: row[name] for name in cases.SETTINGS}),
    )


def named(row: dict) -> str:
    return "-".join(str(value) for value in row.values())


CHECKS = {"sft": cases.check_sft, "reward": cases.check_reward, "dpo": cases.check_dpo, "kto": cases.check_kto}
DESIGN = covering(cases.CASES | cases.SETTINGS)


@pytest.mark.parametrize("stage", CHECKS)
@pytest.mark.parametrize("row", DESIGN, ids=named)
def test_a_step_is_that_of_its_rows_one_by_one(stage, row, bases, tmp_path):
    CHECKS[stage](*split(row), bases, tmp_path)


@pytest.mark.parametrize("row", DESIGN, ids=named)
def test_a_step_of_grpo_is_that_of_its_completions_one_by_one(row, bases, tmp_path, monkeypatch):
    cases.check_grpo(*split(row), bases, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*CHECKS, "grpo"])
@pytest.mark.parametrize("case", covering(cases.CASES), ids=named)
def test_every_setting_gives_the_same_step(stage, case, bases, tmp_path, monkeypatch):
    for place, setting in enumerate(every(cases.SETTINGS)):
        arguments = (cases.Case(**case), cases.Setting(**setting), bases, tmp_path / str(place))
        if stage == "grpo":
            cases.check_grpo(*arguments, monkeypatch)
        else:
            CHECKS[stage](*arguments)
