"""The number of threads is recorded, and kept by a stage that resumes; what is up to date does not depend on it."""

import pytest
import torch
from fake_stages import judge
from fake_stages.common import work

from alignment.durable.manifest import write_manifest
from alignment.durable.steps import Progress
from alignment.pipeline.records.record import RunRecord


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """No number of the user's, and the process's own afterwards."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def used(monkeypatch) -> list[int]:
    """The numbers of threads that the stage `judge` computed with."""
    found: list[int] = []

    def counting(*args):
        found.append(torch.get_num_threads())
        work(*args)

    monkeypatch.setattr(judge, "work", counting)
    return found


def interrupt(project, threads: int | None, checkpoint: bool = True) -> None:
    """Leave `judge` as a killed process that computed with so many threads does."""
    project.run(until="judge")
    RunRecord(project.run_dir).update("stages", "judge", status="running", threads=threads)
    (project.run_dir / "judge/stage.json").unlink()
    if checkpoint:
        step = project.run_dir / "judge/trainer/checkpoint-4"
        step.mkdir()
        (step / "trainer_state.json").write_text('{"max_steps": 8}')
        Progress().write(step)
        write_manifest(step)


def test_the_number_is_recorded_and_logged(project, used, capsys):
    torch.set_num_threads(2)
    project.run(until="judge")
    assert used == [2]
    assert {entry["threads"] for entry in project.record()["stages"].values()} == {2}
    assert "\ncomputes with 2 threads" in capsys.readouterr().out


def test_what_is_up_to_date_does_not_depend_on_the_number(project, capsys):
    project.run()
    torch.set_num_threads(2)
    capsys.readouterr()
    assert project.run() == []
    assert "computes with" not in capsys.readouterr().out


@pytest.mark.parametrize("now", [1, 3])
def test_a_resumed_stage_keeps_its_number_and_the_next_stage_does_not(project, used, now, caplog):
    interrupt(project, threads=2)
    torch.set_num_threads(now)
    assert project.run() == ["judge", "aligned"]
    stages = project.record()["stages"]
    assert used[1:] == [2] == [stages["judge"]["threads"]] and stages["aligned"]["threads"] == now
    assert torch.get_num_threads() == now
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["more threads than this process" in text for text in warned] == [True] * (now < 2)


def test_a_failed_stage_gives_the_number_back(project):
    interrupt(project, threads=2)
    with pytest.raises(RuntimeError, match="broken"):
        project.run("--judge.fail", "broken")
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "WORLD_SIZE"])
def test_the_users_number_and_a_launchers_are_used_with_a_warning(project, used, monkeypatch, caplog, name):
    interrupt(project, threads=2)
    monkeypatch.setenv(name, "3")
    assert project.run(until="judge") == ["judge"]
    assert used[1:] == [1] and project.record()["stages"]["judge"]["threads"] == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "weights will differ in their last bits" in record.getMessage()


@pytest.mark.parametrize("left", [{"checkpoint": False, "threads": 2}, {"checkpoint": True, "threads": 1}])
def test_a_stage_without_a_step_checkpoint_takes_this_machines_number(project, used, left, caplog):
    interrupt(project, **left)
    assert project.run(until="judge") == ["judge"]
    assert used == [1, 1] and not caplog.records


def test_a_record_without_a_number_resumes_with_this_machines(project, used, caplog):
    interrupt(project, threads=1)
    record = RunRecord(project.run_dir)
    del record.stages["judge"]["threads"]
    record.save()
    assert project.run(until="judge") == ["judge"]
    assert used == [1, 1] and not caplog.records
