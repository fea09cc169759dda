"""A stage that is killed (SIGKILL) at any point and run again ends with the result of an uninterrupted run."""

import json
import random

import pandas
import pytest
from align_server import KILLED
from killed_runs import PIPELINE, STAGES, pipeline_words, same_result

from alignment.durable.steps import all_steps

KILLS = {
    "pretrain": ("save", 6),
    "sft": ("step", 11),  # in the second epoch, whose order must be that of the first attempt
    "sft-lora": ("gradient", 10),
    "reward": ("eval", 10),
    "dpo": ("seal", 6),
    "dpo-lora": ("step", 9),
    "ppo": ("rollout", 7),
    "ppo-lora": ("save", 8),
}


def points(name: str) -> list[tuple[str, int]]:
    """Draw five points by phase and step, the same in every run."""
    draw = random.Random(name)
    gradient = "rollout" if "ppo" in name else "gradient"
    saved = 4 if "ppo" in name else 2  # steps between step checkpoints
    return [
        ("step", draw.randint(1, 9)),
        (gradient, draw.randint(1, 8)),
        ("save", saved * draw.randint(1, 8 // saved)),
        ("eval", draw.randint(1, 8)),
        ("final", 0),
    ]


def kill_and_resume(runs, name: str, kill: tuple[str, int]) -> str:
    """Kill a stage and run it again; what the second run printed."""
    whole, place = runs.uninterrupted(name), f"{name}-{kill[0]}-{kill[1]}"
    while (runs.folder / place).exists():  # from another test with the same kill
        place += "-again"
    code, log = runs.run(name, place, kill)
    assert code == KILLED, log
    code, log = runs.run(name, place)
    assert code == 0, log
    assert f"{place}: running (interrupted last time; " in log
    same_result(whole, runs.folder / place)
    return log


FAST = ("pretrain", "sft-lora", "ppo")
CASES = [pytest.param(*case, marks=() if case[0] in FAST else pytest.mark.slow) for case in KILLS.items()]


@pytest.mark.parametrize(("name", "kill"), CASES)
def test_a_killed_stage_ends_like_an_uninterrupted_one(runs, name, kill):
    log = kill_and_resume(runs, name, kill)
    assert "resumes at step" in log


def test_half_a_step_checkpoint_is_passed_over_and_removed(runs):
    log = kill_and_resume(runs, "pretrain", ("save", 8))
    assert "checkpoint-8, which is removed: manifest.json is missing" in log
    assert "resumes at step 6 of 9" in log


def test_a_damaged_step_checkpoint_is_passed_over_and_metrics_are_cut_back(runs):
    whole, place = runs.uninterrupted("pretrain"), runs.folder / "pretrain-damaged"
    assert runs.run("pretrain", place.name, ("final", 0))[0] == KILLED
    before, newest = all_steps(place / "trainer")
    assert (before.name, newest.name) == ("checkpoint-8", "checkpoint-9")
    weights = bytearray((newest / "optimizer.pt").read_bytes())
    weights[len(weights) // 2] ^= 1
    (newest / "optimizer.pt").write_bytes(weights)
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # a torn last line
    code, log = runs.run("pretrain", place.name)
    assert code == 0, log
    assert "checkpoint-9, which is removed: optimizer.pt has been changed" in log
    same_result(whole, place)


def test_a_kill_before_the_first_step_checkpoint_or_after_the_last_file_loses_nothing(runs):
    log = kill_and_resume(runs, "pretrain", ("start", 0))
    assert "restarts, as there is no step checkpoint yet" in log
    kill_and_resume(runs, "pretrain", ("final", 0))
    kill_and_resume(runs, "pretrain", ("record", 0))
    assert not list((runs.folder / "previous").glob("pretrain*"))  # nothing was set aside


def test_a_changed_recipe_or_fresh_starts_over_beside_what_was_there(runs):
    place = runs.folder / "pretrain-changed"
    for more in (["--learning_rate", 1e-3], ["--learning_rate", 1e-3, "--fresh"]):
        assert runs.run("pretrain", place.name, ("step", 7))[0] == KILLED
        steps = sorted(path.name for path in (place / "trainer").iterdir())
        code, log = runs.run("pretrain", place.name, None, *more)
        assert code == 0, log
        assert "its previous folder was moved to" in log and "resumes" not in log
        (aside,) = [path for path in (runs.folder / "previous").iterdir() if (path / "trainer/checkpoint-6").exists()]
        assert sorted(path.name for path in (aside / "trainer").iterdir()) == steps
        aside.rename(runs.folder / f"seen-{len(more)}")
    record = json.loads((runs.folder / "pipeline.json").read_text())["stages"][place.name]
    assert record["status"] == "done" and record["attempts"] == 1


# Four of each trained stage: 20 in one run directory.
PIPELINE_KILLS = [
    *[("steps", 3), ("save", 6), ("final", 0), ("record", 0)],  # pretrain
    *[("steps", 4), ("eval", 8), ("record", 0), ("suite", 0)],  # sft
    *[("gradient", 4), ("steps", 3), ("seal", 8), ("final", 0)],  # reward
    *[("start", 0), ("steps", 3), ("step", 9), ("record", 0)],  # dpo
    *[("rollout", 4), ("steps", 2), ("final", 0), ("suite", 0)],  # ppo
]


@pytest.mark.slow
def test_a_pipeline_killed_twenty_times_ends_like_an_uninterrupted_one(runs):
    words = pipeline_words()
    code, log = runs.align(*words, "--output_dir", runs.folder / "whole")
    assert code == 0, log
    for kill in PIPELINE_KILLS:
        code, log = runs.align(*words, "--output_dir", runs.folder / "killed", kill=kill)
        assert code == KILLED, (kill, log)
    code, log = runs.align(*words, "--output_dir", runs.folder / "killed")
    assert code == 0, log
    for name in PIPELINE[1:]:
        same_result(runs.folder / "whole" / name, runs.folder / "killed" / name)
    items = [sorted((runs.folder / run / "evals").glob("*/items.parquet")) for run in ("whole", "killed")]
    assert len(items[0]) == 4
    for one, other in zip(*items, strict=True):
        assert one.parent.name == other.parent.name
        pandas.testing.assert_frame_equal(pandas.read_parquet(one), pandas.read_parquet(other))
    assert not (runs.folder / "killed/previous").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kill"), [(name, kill) for name in STAGES if name in KILLS for kill in points(name)])
def test_a_kill_at_any_point(runs, name, kill):
    kill_and_resume(runs, name, kill)
