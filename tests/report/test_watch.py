"""`align watch`: the state of a run while it runs, once it is over, and before it is there."""

import argparse
import dataclasses
import io
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from alignment.cli.inspect import watch
from alignment.durable.lock import is_locked, locked
from alignment.errors import UserError
from alignment.report.content import collect
from alignment.report.live.run_state import (
    DIED,
    ENDED,
    RUNNING,
    STOPPED,
    WAITING,
    read_rows,
    read_state,
    seconds_left,
    trained_share,
)
from alignment.report.live.screen import BARS, closing_lines, main_figures, screen, sparkline

ROWS = [{"step": 10 * n, "epoch": n / 10, "seconds": 20.0 * n, "loss": 2.0 - n / 10, "reward": n} for n in range(1, 6)]


def write(run_dir, stages, evals=None, **about):
    """pipeline.json, and the logs of stages that are not done."""
    run_dir.mkdir(exist_ok=True)
    record = {"name": "tiny", "recipe": "my-recipes", "stages": stages, "evals": evals or {}} | about
    (run_dir / "pipeline.json").write_text(json.dumps(record))
    for name, entry in stages.items():
        (run_dir / name).mkdir(exist_ok=True)
        if entry["status"] == "done":
            (run_dir / name / "stage.json").write_text(json.dumps({"metrics": {"eval_loss": 0.25}}))
        else:
            (run_dir / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return run_dir


@pytest.fixture
def run_dir(tmp_path):
    """A run whose PPO is at step 50 of 200."""
    ppo = {"status": "running", "recipe": {"max_steps": 200}, "recipe_file": "my-recipes/ppo.yaml"}
    stages = {"sft": {"status": "done", "seconds": 75.0}, "ppo": ppo}
    evals = {"sft-quiz-chat": {"status": "done"}, "sft-quiz-plain": {"status": "done"}}
    return write(tmp_path / "tiny", stages, evals)


def shown(state) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(screen(state))
    return "\n".join([console.file.getvalue(), *closing_lines(state)])


def run(run_dir, *flags) -> int:
    parser = argparse.ArgumentParser()
    watch.add_arguments(parser)
    return watch.main(parser.parse_args([str(run_dir), *flags]))


def hold(folder, ready, enough) -> None:
    with locked(folder):
        ready.set()
        enough.wait(30)


@pytest.fixture
def held(run_dir):
    """The run directory, locked by another process, as by `align run`."""
    context = multiprocessing.get_context("fork")
    ready, enough = context.Event(), context.Event()
    process = context.Process(target=hold, args=(run_dir, ready, enough))
    process.start()
    assert ready.wait(30)
    yield run_dir
    enough.set()
    process.join()


def test_a_running_stage_has_its_step_figures_and_time_left(held, capsys):
    log = held / "ppo/metrics.jsonl"
    os.utime(log, (1000.0, 1000.0))
    state = read_state(held, now=1030.0)
    assert state.status == RUNNING
    ppo = state.current
    assert (ppo.name, ppo.step, ppo.steps, ppo.share, ppo.seconds) == ("ppo", 50, 200, 0.25, 100.0)
    # 80 s for 20% of the steps; 75% are left, since 30 s ago.
    assert ppo.remaining == pytest.approx(300.0 - 30.0)
    text = shown(state)
    assert "PPO is running, about 4.5 min left in this stage" in text
    assert "step 50 of 200 (25%)" in text and "eval_loss 0.25" in text
    assert "evaluations: 2 done (the newest: sft-quiz-plain)" in text
    assert "reward, training" in text and BARS[0] in text and BARS[-1] in text
    assert run(held) == 0  # no terminal: once
    assert "PPO is running" in capsys.readouterr().out


def test_looking_at_a_lock_leaves_it_free(run_dir):
    assert not is_locked(run_dir)
    with locked(run_dir):
        assert is_locked(run_dir)
    assert not is_locked(run_dir)
    with locked(run_dir):
        pass


def test_a_run_that_died_says_so_and_how_to_resume(run_dir, capsys):
    assert read_state(run_dir).status == DIED
    assert run(run_dir, "--once") == 1
    printed = capsys.readouterr().out
    assert "died while PPO was running" in printed and "No process works on it any more" in printed
    assert f"align ppo my-recipes/ppo.yaml --output_dir {run_dir}/ppo" in printed


def test_the_resume_commands_are_those_of_the_pipeline_and_of_the_stage(run_dir, tmp_path):
    (tmp_path / "pipeline.yaml").write_text("stages: {}\n")
    record = json.loads((run_dir / "pipeline.json").read_text())
    write(run_dir, record["stages"], recipe=str(tmp_path), inputs={"model": "a b"})
    assert read_state(run_dir).resume == {
        "the pipeline": f"align run {tmp_path} --model 'a b' --output_dir {run_dir}",
        "the stage alone": f"align ppo my-recipes/ppo.yaml --model 'a b' --output_dir {run_dir}/ppo",
    }
    assert f"align run {tmp_path} --model 'a b' --output_dir {run_dir}  # the pipeline" in shown(read_state(run_dir))


@pytest.mark.parametrize(("status", "error"), [("failed", "OutOfMemory('too large')"), ("interrupted", None)])
def test_a_run_that_stopped_shows_why(run_dir, status, error):
    write(run_dir, {"ppo": {"status": status, "error": error, "recipe": {}}})
    state = read_state(run_dir)
    assert state.status == STOPPED and watch.exit_code(state) == 1
    text = shown(state)
    assert f"PPO: {status}" in text and (error or "To resume, repeat the command that was run") in text


def test_an_evaluation_that_failed_is_named(run_dir):
    evals = {"sft-quiz-chat": {"status": "failed"}}
    state = read_state(write(run_dir, {"sft": {"status": "done", "seconds": 3.0}}, evals))
    assert state.status == STOPPED
    assert "evaluation sft-quiz-chat: failed" in shown(state) and "failed: sft-quiz-chat" in shown(state)
    assert "align run my-recipes" in shown(state)


def test_a_run_that_ended_shows_its_result(run_dir):
    write(run_dir, {"sft": {"status": "done", "seconds": 75.0}})
    state = read_state(run_dir)
    assert state.status == ENDED and watch.exit_code(state) == 0
    assert f"align report {run_dir}" in shown(state) and "1 min 15 s" in shown(state)
    assert "align report 'a run'" in shown(dataclasses.replace(state, run_dir=Path("a run")))
    (run_dir / "report.html").write_text("page")
    assert f"report: {run_dir / 'report.html'}" in shown(state)


def test_a_run_that_is_not_there_yet(tmp_path, capsys):
    assert run(tmp_path / "later", "--once") == 0
    printed = capsys.readouterr().out
    assert "no run there yet" in printed and "Ctrl-C" not in printed  # without a terminal it does not wait
    assert not (tmp_path / "later").exists()
    (tmp_path / "empty").mkdir()
    assert read_state(tmp_path / "empty").status == WAITING


def test_waiting_says_how_to_stop(tmp_path, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    assert watch.follow(tmp_path / "later", console).status == WAITING
    assert "(Ctrl-C stops waiting)" in console.file.getvalue()


def test_a_null_byte_is_no_path():
    with pytest.raises(UserError, match=r"'a\\x00b' is not a run directory"):
        run("a\0b")


def test_a_folder_of_runs_is_not_waited_for(run_dir):
    with pytest.raises(UserError, match="is not a run directory") as raised:
        read_state(run_dir.parent)
    assert raised.value.fix == f"align watch {run_dir}"
    with locked(run_dir.parent):
        assert read_state(run_dir.parent).status == WAITING


def test_half_written_and_missing_files_are_coped_with(run_dir):
    log = run_dir / "ppo/metrics.jsonl"
    with log.open("a") as file:
        file.write('[1]\n{"step": 60, "lo')
    assert [row["step"] for row in read_rows(log)] == [10, 20, 30, 40, 50]
    log.unlink()
    (run_dir / "sft/stage.json").unlink()
    state = read_state(run_dir)
    assert "no step logged yet" in shown(state)
    assert state.stages[0].metrics == {}


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ({"stages": ["a"]}, "stages: ['a'] (a list)"),
        ({"stages": {"sft": None}}, "stages.sft: None (null)"),
        ({"evals": {"sft-quiz": 3}}, "evals.sft-quiz: 3 (a whole number)"),
        ({"stages": {"sft": {"status": "failed", "error": [1]}}}, "stages.sft.error: [1] (a list)"),
        ({"report": {"headline": "loss"}}, "report.headline: 'loss' (text)"),
    ],
)
@pytest.mark.parametrize("read", [read_state, collect])
def test_a_record_of_another_shape_is_damaged(tmp_path, content, got, read):
    (tmp_path / "pipeline.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"pipeline\.json is damaged") as raised:
        read(tmp_path)
    assert raised.value.got == got and raised.value.expected and raised.value.fix


@pytest.mark.parametrize("read", [read_state, collect])
def test_a_finished_stage_of_another_shape_is_damaged(run_dir, read):
    (run_dir / "sft/stage.json").write_text('{"metrics": [1]}')
    with pytest.raises(UserError, match=r"sft/stage\.json is damaged"):
        read(run_dir)


def test_a_record_of_an_evaluation_without_its_keys_is_named(run_dir):
    (run_dir / "evals/x").mkdir(parents=True)
    for text, reason in (("{}", "is not that of an eval run, got keys none, expected"), ("{", "is damaged")):
        (run_dir / "evals/x/run.json").write_text(text)
        (unreadable,) = collect(run_dir)["unreadable"]
        assert unreadable["file"] == str(run_dir / "evals/x/run.json") and unreadable["reason"].startswith(reason)


def test_figures_that_are_no_finite_numbers_are_left_out(run_dir):
    with (run_dir / "ppo/metrics.jsonl").open("a") as file:
        file.write('{"step": "six", "epoch": "abc", "seconds": [], "reward": NaN}\n{"step": 70, "reward": Infinity}\n')
    state = read_state(run_dir)
    assert state.current.rows[-2:] == [{}, {"step": 70}]
    assert "step 70 of 200" in shown(state) and "nan" not in shown(state)
    assert collect(run_dir)["curves"]["ppo"]["reward"] == [[10 * n, n] for n in range(1, 6)]


def test_brackets_in_an_error_are_no_markup(run_dir):
    error = "RuntimeError('[/opt/gloo/pair.cc:534] [enforce fail at x] list[str] expected')"
    write(run_dir, {"ppo[1]": {"status": "failed", "error": error}})
    assert error in shown(read_state(run_dir))


def test_the_live_view_ends_with_the_run(run_dir, monkeypatch):
    """It shows the run until it is over; the run ends while the view waits."""
    states = iter([WAITING, RUNNING, ENDED])
    seen = []

    def state_of(folder):
        return read_state(folder).__class__(folder, next(states), "tiny")

    monkeypatch.setattr("alignment.report.live.run_state.read_state", state_of)
    monkeypatch.setattr(time, "sleep", seen.append)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    assert watch.follow(run_dir, console).status == ENDED
    assert seen == [watch.EVERY] * 2
    assert "finished" in console.file.getvalue()


def test_ctrl_c_ends_the_view_alone(held, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    assert watch.follow(held, console).status == RUNNING
    assert "the run is not affected" in console.file.getvalue()


def test_the_share_is_that_of_steps_or_of_epochs():
    assert trained_share({"max_steps": 40}, {"step": 10, "epoch": 0.9}) == 0.25
    assert trained_share({"num_train_epochs": 2}, {"step": 10, "epoch": 0.5}) == 0.25
    assert trained_share({"max_steps": -1}, {"step": 10, "epoch": 1.5}) == 0.5  # three epochs by default
    assert trained_share({}, {"step": 10}) is None
    assert trained_share({"max_steps": 40}, {"step": 44}) == 1.0


def test_the_number_of_steps_is_that_of_the_trainer(run_dir):
    """Not the step over the share of the epochs, which transformers counts otherwise at the end of an epoch."""
    ppo = {"status": "running", "recipe": {"num_train_epochs": 2}}
    state = read_state(write(run_dir, {"ppo": ppo}))
    assert (state.current.steps, state.current.share) == (None, 0.25)
    state = read_state(write(run_dir, {"ppo": ppo | {"steps": 82}}))
    assert (state.current.steps, state.current.share) == (82, 50 / 82) and "step 50 of 82 (61%)" in shown(state)


def test_the_rate_needs_a_few_rows():
    assert seconds_left({"max_steps": 100}, ROWS[:2]) is None
    assert seconds_left({"max_steps": 100}, [ROWS[0]] * 3) is None
    assert seconds_left({"max_steps": 50}, ROWS) == 0.0


def test_figures_and_sparklines():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BARS
    assert sparkline([3, 3]) == BARS[0] * 2
    assert len(sparkline(list(range(1000)))) == 32
    rows = [{"step": 1, "loss": 2.0, "eval_loss": 3.0, "flag": True}, {"step": 2, "loss": 1.0}]
    assert main_figures(rows) == [("loss, training", [2.0, 1.0]), ("loss, held out", [3.0])]
    assert [name for name, _ in main_figures(ROWS)] == ["reward, training"]  # the loss of PPO says little
