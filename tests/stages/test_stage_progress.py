"""A stage's progress: what training prints on a terminal and on a pipe, and that it changes nothing else."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_stages
from rich.console import Console
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState

from alignment.callbacks import metrics_log
from alignment.callbacks.stage_progress import StageProgress, figures_of
from alignment.stages.shared import stage_run

REPOSITORY = Path(__file__).parents[2]
KEYS = {"disable_tqdm": None, "eval_share": 0.25, "eval_strategy": "steps", "eval_steps": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stages.make(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def on_a_pipe(folder, tmp_path_factory):
    """An sft stage and what it printed, with stderr no terminal."""
    place = tmp_path_factory.mktemp("pipe") / "sft"
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        tiny_stages.run("sft", folder, place, **KEYS)
    return place, out.getvalue(), err.getvalue()


@pytest.fixture
def terminal(monkeypatch):
    """The console of a terminal, which stages find."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, width=100, soft_wrap=True)
    monkeypatch.setattr(stage_run, "StageProgress", lambda name: StageProgress(name, console))
    return console


def comparable(place):
    """The lines of metrics.jsonl without times."""
    lines = tiny_stages.metrics(place)
    timed = ("second", "runtime")
    return [{key: value for key, value in line.items() if not any(part in key for part in timed)} for line in lines]


def test_a_pipe_gets_plain_lines(on_a_pipe):
    _, out, err = on_a_pipe
    printed = [line for line in err.splitlines() if line.startswith("sft  ")]
    assert printed[0].startswith("sft  1/6  loss ") and "tokens/s" in printed[0] and printed[0].endswith(" left")
    assert [line.split("(")[0][:27] for line in printed if "evaluation" in line] == [
        "sft  4/6  evaluation: loss ",
        "sft  6/6  evaluation: loss ",
    ]
    assert "evaluating" not in "".join(printed)
    assert not set("\r\x1b") & set("".join(printed))
    assert "{'" not in out + err


def test_the_closing_line_says_result_time_memory_place_and_the_next_command(on_a_pipe):
    place, out, _ = on_a_pipe
    (closing,) = [line for line in out.splitlines() if line.startswith("sft: done")]
    for part in ("done in ", "peak memory ", "eval loss ", f"in {place}"):
        assert part in closing
    assert out.splitlines()[-1] == f"next: align chat {place}/checkpoint"


def test_a_terminal_shows_one_line_and_training_is_the_same(on_a_pipe, terminal, folder, tmp_path):
    tiny_stages.run("sft", folder, tmp_path / "sft", **KEYS)
    text = terminal.file.getvalue()
    assert text.count("\n") == 3  # two evaluations, and the end
    assert "Writing model shards" not in text  # of the step checkpoints
    assert "evaluating 1/" in text and "6/6  loss " in text
    assert comparable(tmp_path / "sft") == comparable(on_a_pipe[0])
    assert tiny_stages.same(tiny_stages.weights(tmp_path / "sft"), tiny_stages.weights(on_a_pipe[0]))


def test_a_failed_stage_leaves_the_terminal_in_order_and_resumes_at_its_step(terminal, folder, tmp_path, monkeypatch):
    def fail(self, args, state, control, **kwargs):
        assert state.global_step < 3, "out of luck"

    stderr, keys = sys.stderr, {"save_steps": 2, "save_strategy": "steps"}
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="out of luck"):
        patch.setattr(metrics_log.MetricsWriter, "on_step_end", fail, raising=False)
        tiny_stages.run("sft", folder, tmp_path / "sft", **KEYS, **keys)
    assert sys.stderr is stderr
    assert terminal.file.getvalue().endswith("\n\x1b[?25h")
    terminal.file.truncate(0)
    tiny_stages.run("sft", folder, tmp_path / "sft", **KEYS, **keys)
    assert " 2/6" in terminal.file.getvalue().split("\r")[0]


@pytest.mark.parametrize(("key", "shown"), [(None, True), (False, False)])
def test_disable_tqdm_false_keeps_the_bars_of_transformers(key, shown, folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(stage_run.StageRun, "_train", lambda self, trainer: seen.append(trainer) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_stages.run("sft", folder, tmp_path / "sft", disable_tqdm=key)
    kinds = {type(callback) for callback in seen[0].callback_handler.callbacks}
    assert (StageProgress in kinds, ProgressCallback in kinds) == (shown, not shown)
    assert PrinterCallback not in kinds


@pytest.mark.slow
def test_the_output_of_a_process_holds_nothing_but_lines(folder, tmp_path):
    """Libraries' bars included, which are switched off before the libraries are imported."""
    recipe = tiny_stages.recipe("sft", folder)
    command = [
        sys.executable,
        "-m",
        "align",
        "sft",
        recipe,
        "--output_dir",
        tmp_path / "run/sft",
        "--disable_tqdm=null",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not set("\r\x1b") & set(done.stdout + done.stderr)
    assert "%|" not in done.stderr and "sft  6/6  loss" in done.stderr


def test_only_the_main_process_prints(capsys):
    state = TrainerState(max_steps=4, is_world_process_zero=False)
    progress, control = StageProgress("sft"), TrainerControl()
    progress.on_train_begin(None, state, control)
    progress.on_step_end(None, state, control)
    progress.on_log(None, state, control, logs={"loss": 1.0})
    progress.on_prediction_step(None, state, control)
    progress.on_evaluate(None, state, control, metrics={"eval_loss": 1.0})
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_tokens_per_second_leave_out_earlier_attempts_and_evaluations(capsys):
    now = 0.0
    state = TrainerState(max_steps=8, global_step=2, log_history=[{"num_tokens": 1000}, {"eval_loss": 1.0}])
    progress, control = StageProgress("sft", clock=lambda: now), TrainerControl()
    progress.on_train_begin(None, state, control)
    now = 10.0
    progress.on_prediction_step(None, state, control)
    now = 15.0
    progress.on_evaluate(None, state, control, metrics={"eval_loss": 1.0})
    now, state.global_step = 25.0, 4
    progress.on_step_end(None, state, control)
    progress.on_log(None, state, control, logs={"loss": 1.0, "num_tokens": 3000})
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["sft  2/8  evaluation: loss 1.000 (5.0 s)", "sft  4/8  loss 1.000  100 tokens/s  50 s left"]


def test_ppo_keeps_its_reward_over_the_steps_of_a_rollout(capsys):
    now = 0.0
    state = TrainerState(max_steps=3)
    progress, control = StageProgress("ppo", clock=lambda: now), TrainerControl()
    progress.on_train_begin(None, state, control)
    for logs in ({"loss": 0.1, "reward": 1.5}, {"loss": 0.2}, {"loss": 0.3, "reward": 1.6}):
        now += 20
        progress.on_log(None, state, control, logs=logs)
    progress.close()
    assert [line.split("  ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "reward 1.500",
        "reward 1.500",
        "reward 1.600",
    ]


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        ({"loss": 1.2345, "grad_norm": 1.0, "learning_rate": 1e-3}, ["loss 1.234"]),
        ({"loss": 0.5, "accuracy": 0.75, "margin": 0.6}, ["loss 0.500", "accuracy 0.750", "margin 0.600"]),
        (
            {"loss": 0.5, "rewards/accuracies": 0.8, "rewards/margins": 0.2},
            ["loss 0.500", "accuracy 0.800", "margin 0.200"],
        ),
        ({"loss": 0.1, "reward": 1.5, "kl": 0.00058, "entropy": 0.3}, ["reward 1.500", "KL 5.80e-04"]),
        ({"loss": 0.5, "kl": 0.3, "rewards/margins": 0.2}, ["loss 0.500", "margin 0.200"]),  # KTO
        ({"loss": float("nan")}, ["loss nan"]),
        ({"train_loss": 1.0, "train_runtime": 3.0}, []),
    ],
)
def test_the_main_figures_of_a_log(logs, expected):
    assert figures_of(logs) == expected
