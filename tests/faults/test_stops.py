"""Signals and time budgets: where training stops, its record and exit code, and how it resumes."""

import json
import os
import signal
import subprocess
import sys

import pytest
import tiny_stages as tiny
from align_cli import REPOSITORY, align

from alignment.errors import Interrupted, UserError
from alignment.pipeline.stopping import parse_duration

QUICK = ["sft", "ppo-lora"]
STAGES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in tiny.KEYS]
# In the middle of an epoch, at the end of one, and at the last step; PPO rolls out for two steps.
KEYS = {"max_steps": 9, "save_strategy": "no"}


def send(signum: int):
    """Send a signal once: a second one would end training at once."""
    left = [signum]
    return lambda trainer: left and signal.raise_signal(left.pop())


@pytest.mark.parametrize("name", STAGES)
def test_a_signal_saves_at_the_next_boundary_and_the_same_command_resumes(
    name, parents, tmp_path, at_step, monkeypatch
):
    whole, stopped = tmp_path / "whole" / name, tmp_path / "stopped" / name
    tiny.run(name, parents, whole, **KEYS)
    expected = [4, 6] if name.startswith("ppo") else [3, 6]  # 6 steps are an epoch
    for begun, signum, last in zip((2, 5), (signal.SIGTERM, signal.SIGINT), expected, strict=True):
        with (
            monkeypatch.context(),
            pytest.raises(Interrupted, match=f"saved at step {last} of 9.*repeat the command") as stop,
        ):
            at_step({begun}, send(signum))
            tiny.run(name, parents, stopped, **KEYS)
        monkeypatch.undo()
        assert stop.value.args[0] == signum
        assert tiny.record(stopped)["status"] == "interrupted"
        assert [path.name for path in (stopped / "trainer").glob("checkpoint-*")][-1:]
        assert not (stopped / "checkpoint").exists()
    done = tiny.run(name, parents, stopped, **KEYS)
    assert tiny.same(tiny.weights(stopped), tiny.weights(whole))
    assert tiny.losses(stopped) == tiny.losses(whole)
    assert done["tokens"] == json.loads((whole / "stage.json").read_text())["tokens"]


def test_a_signal_in_the_last_step_leaves_only_what_comes_after_training(parents, tmp_path, at_step, monkeypatch):
    tiny.run("sft", parents, tmp_path / "whole/sft")
    at_step({5}, send(signal.SIGTERM))
    with pytest.raises(Interrupted, match="saved at step 6 of 6"):
        tiny.run("sft", parents, tmp_path / "stopped/sft")
    monkeypatch.undo()
    tiny.run("sft", parents, tmp_path / "stopped/sft")
    assert tiny.same(tiny.weights(tmp_path / "stopped/sft"), tiny.weights(tmp_path / "whole/sft"))


def test_a_second_signal_ends_at_once(parents, tmp_path, at_step):
    at_step({2}, lambda trainer: [signal.raise_signal(signal.SIGTERM) for _ in range(2)])
    with pytest.raises(Interrupted, match="ended at once"):
        tiny.run("sft", parents, tmp_path / "sft")
    assert tiny.record(tmp_path / "sft")["status"] == "interrupted"
    assert not list((tmp_path / "sft/trainer").glob("checkpoint-*"))


def test_a_stage_that_cannot_resume_says_so(parents, tmp_path, at_step):
    at_step({2}, send(signal.SIGTERM))
    with pytest.raises(Interrupted, match="ended at step 3 of 6; the next run starts over"):
        tiny.run("sft", parents, tmp_path / "sft", save_only_model=True)


def test_signal_handlers_are_restored(parents, tmp_path, at_step):
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU)]
    at_step({1}, send(signal.SIGTERM))
    with pytest.raises(Interrupted):
        tiny.run("sft", parents, tmp_path / "sft")
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU)] == before


def test_a_time_budget_that_ends_before_training_ends_the_data_preparation(parents, tmp_path):
    with pytest.raises(Interrupted, match=r"max-time is up.*repeat the command"):
        tiny.run("pretrain", parents, tmp_path / "run/pretrain", max_seconds=0.0)
    again = tiny.run("pretrain", parents, tmp_path / "run/pretrain")
    assert again["faults"] == {"skipped_steps": 0, "loss_spikes": 0}


@pytest.mark.parametrize(
    ("text", "expected"), [("2h30m", 9000), ("45m", 2700), ("90s", 90), ("1.5h", 5400), ("1h 5min 2s", 3902)]
)
def test_durations(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "90", "h", "2d", "-1h", "0s", "30m2h"])
def test_invalid_durations_are_refused(text):
    with pytest.raises(UserError, match="2h30m"):
        parse_duration(text)


@pytest.mark.slow
def test_a_time_budget_ends_a_real_command_that_resumes(parents, tmp_path):
    """The budget is spent while it trains: 5,000 steps of some milliseconds."""
    recipe = tiny.recipe("sft", parents)
    command = ["sft", recipe, "--output_dir", tmp_path / "run/sft", "--max_steps=5000", "--no-check"]
    stopped = align(*command, "--max-time", "6s", cwd=tmp_path)
    assert stopped.returncode == 75, stopped.stderr[-2000:]
    assert "the time is up: saved at step" in stopped.stderr and "Traceback" not in stopped.stderr
    assert tiny.record(tmp_path / "run/sft")["status"] == "interrupted"
    plan = align(*command, "--dry-run", cwd=tmp_path)
    assert "interrupted last time; resumes at step" in plan.stdout


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signalled_command_ends_with_the_signals_code_and_one_line(signum, code, parents, tmp_path):
    """A signal from outside, sent once the first steps are logged."""
    recipe, stage = tiny.recipe("sft", parents), tmp_path / "run/sft"
    command = [sys.executable, str(REPOSITORY / "align.py"), "sft", str(recipe), "--output_dir", str(stage)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        [*command, "--max_steps=5000", "--no-check"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stderr:
        if line.startswith("sft  ") and "loss" in line:
            child.send_signal(signum)
            break
    _, errors = child.communicate(timeout=120)
    assert child.returncode == code, errors[-2000:]
    assert "saved at step" in errors and "repeat the command to resume" in errors and "Traceback" not in errors
    assert tiny.record(stage)["status"] == "interrupted"
    assert list((stage / "trainer").glob("checkpoint-*/manifest.json"))
