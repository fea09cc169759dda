"""A data stage that is killed (SIGKILL) ten times, at random moments, makes the rows of one that was not."""

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
from judge_server import Server

KILLS, PARTS, CONCURRENCY = 10, 24, 2
PATIENCE = 300  # seconds


@pytest.fixture
def server():
    """An endpoint that takes its time."""
    made = Server()
    made.answer = answer
    yield made
    made.http.shutdown()
    made.http.server_close()


def answer(question: str, attempt: int) -> str:
    """A verdict, a critique or a revision, which the question alone decides."""
    time.sleep(0.02)
    if "[Reply A]" in question:
        first, second = (question.split(f"[Reply {name}]\n")[1].split("\n\n")[0] for name in "AB")
        return f"Verdict: {'A' if first > second else 'B'}"
    return f"Text {sum(question.encode()) % 7}" if "[Reply]" in question else "Verdict: A"


@pytest.fixture(params=["sample", "judge", "critique"])
def stage(request) -> str:
    return request.param


@pytest.fixture
def place(tmp_path, stage, server) -> Path:
    """A pipeline of a data stage alone, with a tiny model and reward model, or with the endpoint."""
    folder = tiny_stages.make(tmp_path / "recipes")
    endpoint = f"reward_models.api_judge:api?base_url={server.url}&model=m&concurrency={CONCURRENCY}"
    principles = [{"name": name, "prefer": name, "critique": name, "revise": name} for name in ("kind", "short")]
    (folder / "principles.yaml").write_text(yaml.safe_dump(principles))
    asked = {"principles": str(folder / "principles.yaml"), "rows_per_part": 1}
    recipes = {
        "sample": {
            "model_name_or_path": str(folder / "base"), "reward_model_path": str(folder / "judge"),
            "dataset_name": str(folder / "prompts.jsonl"), "write": "pairs", "keep_truncated": True,
            "against": "random", "num_generations": 6, "max_completion_length": 48, "rows_per_part": 1, "batch_size": 4,
        },
        "judge": asked | {"judges": [endpoint], "dataset_name": str(folder / "pairs.jsonl")},
        "critique": asked | {"endpoint": endpoint, "dataset_name": str(folder / "sft.jsonl"), "rounds": 2},
    }  # fmt: skip
    (folder / f"{stage}.yaml").write_text(yaml.safe_dump(recipes[stage]))
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"name": "x", "stages": {stage: f"{stage}.yaml"}}))
    return tmp_path


def start(place: Path, run_dir: str) -> subprocess.Popen:
    words = ["run", "recipes", "--output_dir", run_dir, "--no-check"]
    with (place / "log.txt").open("a") as log:
        command = [sys.executable, str(REPOSITORY / "align.py"), *words]
        environment = os.environ | ENVIRONMENT | {"no_proxy": "127.0.0.1"}
        return subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)


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
def test_ten_kills_at_random_moments(place, stage, server):
    assert start(place, "whole").wait(PATIENCE) == 0, (place / "log.txt").read_text()
    once = server.asked()
    server.attempts.clear()
    folder, draw = place / "killed" / stage, random.Random(7)
    moments = sorted(draw.sample(range(PARTS), KILLS - 1))
    ended = []
    for parts in moments:
        process = start(place, "killed")
        kill_when(process, lambda parts=parts: len([*folder.glob("parts/*.jsonl")]) >= parts, draw.random() / 5)
        ended.append(process.returncode)
    process = start(place, "killed")
    kill_when(process, lambda: [*folder.glob("data*")], 0)  # the rows are being put together
    assert [*ended, process.returncode].count(-signal.SIGKILL) == KILLS
    assert start(place, "killed").wait(PATIENCE) == 0, (place / "log.txt").read_text()
    whole, again = (
        {path.name: path.read_bytes() for path in (place / name / stage / "data").iterdir()}
        for name in ("whole", "killed")
    )
    varies = {"lineage.json", "manifest.json"}  # when the stage started
    assert whole.keys() == again.keys() >= varies | {"train-00000.parquet", "account.json"}
    assert [name for name in whole if whole[name] != again[name] and name not in varies] == []
    told = [json.loads((place / name / stage / "stage.json").read_text()) for name in ("whole", "killed")]
    assert all(told[0][key] == told[1][key] for key in ("metrics", "tokens", "parents"))
    assert "resumes after" in (place / "log.txt").read_text()
    assert {path.name for path in folder.iterdir()} == {path.name for path in (place / "whole" / stage).iterdir()}
    assert once.keys() == server.asked().keys()
    # Only requests that were under way at a kill are made again.
    assert sum(server.asked().values()) <= sum(once.values()) + KILLS * CONCURRENCY
