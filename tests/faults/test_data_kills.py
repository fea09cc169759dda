"""A sample stage that is killed (SIGKILL) ten times, at random moments, makes the rows of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_stages
import yaml
from align_cli import ENVIRONMENT, REPOSITORY

KILLS, PARTS = 10, 24
PATIENCE = 300  # seconds


@pytest.fixture
def place(tmp_path) -> Path:
    """A tiny model and reward model, and a pipeline of a sample stage alone."""
    folder = tiny_stages.make(tmp_path / "recipes")
    sample = {
        "model_name_or_path": str(folder / "base"), "reward_model_path": str(folder / "judge"),
        "dataset_name": str(folder / "prompts.jsonl"), "write": "pairs", "keep_truncated": True, "against": "random",
        "num_generations": 6, "max_completion_length": 48, "rows_per_part": 1, "batch_size": 4,
    }  # fmt: skip
    (folder / "sample.yaml").write_text(yaml.safe_dump(sample))
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"name": "x", "stages": {"sample": "sample.yaml"}}))
    return tmp_path


def start(place: Path, run_dir: str) -> subprocess.Popen:
    words = ["run", "recipes", "--output_dir", run_dir, "--no-check"]
    with (place / "log.txt").open("a") as log:
        command = [sys.executable, str(REPOSITORY / "align.py"), *words]
        return subprocess.Popen(command, cwd=place, env=os.environ | ENVIRONMENT, stdout=log, stderr=log)


def kill_when(process: subprocess.Popen, is_time, delay: float) -> None:
    """Kill a process a moment after a condition holds."""
    ends = time.monotonic() + PATIENCE
    while not is_time():
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_ten_kills_at_random_moments(place):
    assert start(place, "whole").wait(PATIENCE) == 0, (place / "log.txt").read_text()
    stage, draw = place / "killed/sample", random.Random(7)
    moments = sorted(draw.sample(range(PARTS), KILLS - 1))
    ended = []
    for parts in moments:
        process = start(place, "killed")
        kill_when(process, lambda parts=parts: len([*stage.glob("parts/*.jsonl")]) >= parts, draw.random() / 5)
        ended.append(process.returncode)
    process = start(place, "killed")
    kill_when(process, lambda: [*stage.glob("data*")], 0)  # the rows are being put together
    assert [*ended, process.returncode].count(-signal.SIGKILL) == KILLS
    assert start(place, "killed").wait(PATIENCE) == 0, (place / "log.txt").read_text()
    whole, again = (
        {path.name: path.read_bytes() for path in (place / name / "sample/data").iterdir()}
        for name in ("whole", "killed")
    )
    varies = {"lineage.json", "manifest.json"}  # when the stage started
    assert whole.keys() == again.keys() >= varies | {"train-00000.parquet", "account.json"}
    assert [name for name in whole if whole[name] != again[name] and name not in varies] == []
    told = [json.loads((place / name / "sample/stage.json").read_text()) for name in ("whole", "killed")]
    assert all(told[0][key] == told[1][key] for key in ("metrics", "tokens", "parents"))
    assert "resumes after" in (place / "log.txt").read_text()
    assert {path.name for path in stage.iterdir()} == {path.name for path in (place / "whole/sample").iterdir()}
