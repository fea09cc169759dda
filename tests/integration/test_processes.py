"""Every stage under a launcher: two processes (gloo) do what one does, and write what one writes.

On CPUs `accelerate launch` wants MPI for several processes: here torch's own launcher starts them, as it does for GPUs.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from align_cli import REPOSITORY
from safetensors.torch import load_file

# SGD's steps are as long as its gradients; Adam's are as long where a gradient is nothing but rounding.
KEYS = {"optim": "sgd", "learning_rate": 0.05, "logging_steps": 1, "lr_scheduler_type": "constant"}
KEYS |= {"train_sampling_strategy": "random", "warmup_steps": 0}
# Prompts of one process are sampled apart from those of another: PPO's are compared in test_ppo_processes.py.
STAGES = {
    "pretrain": {"muon": "false", "bf16": "false"},  # Muon goes with AdamW
    "sft": {"load_best_model_at_end": "false", "save_strategy": '"no"'},
    "reward": {},
    "dpo": {"loss_type": "[sigmoid]", "loss_weights": "null"},  # TRL takes its loss `sft` as a mean of processes' means
}


def train(run_dir: Path, stage: str, processes: int, rows: int, keys: dict) -> Path:
    """Train a stage of a copy of a run directory, `rows` rows a process at a time; its folder."""
    options = [f"--{key}={value}" for key, value in {**keys, "per_device_train_batch_size": rows}.items()]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    align = ["-m", "align", stage, f"recipes/tiny/{stage}.yaml", "--fresh", "--quick", "--no-check"]
    command = [sys.executable, *launch, *align, "--output_dir", str(run_dir / stage), *options]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return run_dir / stage


def parents_of(quick_run: Path, folder: Path) -> Path:
    """A run directory with the finished stages, which are not changed."""
    folder.mkdir()
    shutil.copy(quick_run / "pipeline.json", folder)
    for stage in ("tokenizer", "pretrain", "sft", "reward"):
        shutil.copytree(quick_run / stage, folder / stage)
    return folder


def logged(stage_dir: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (stage_dir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_a_stage_as_one(quick_run, tmp_path, stage):
    one, two = (
        train(parents_of(quick_run, tmp_path / str(count)), stage, count, 4 // count, KEYS | STAGES[stage])
        for count in (1, 2)
    )
    assert logged(one, "loss") == pytest.approx(logged(two, "loss"), rel=1e-4) and len(logged(one, "loss")) == 2
    assert logged(one, "eval_loss") == pytest.approx(logged(two, "eval_loss"), rel=1e-3)
    expected, found = (load_file(folder / "checkpoint/model.safetensors") for folder in (one, two))
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-5, rtol=1e-3)
    results = [json.loads((folder / "stage.json").read_text()) for folder in (one, two)]
    assert results[0]["tokens"] == results[1]["tokens"]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}


@pytest.mark.slow
def test_ppo_runs_in_two_processes(quick_run, tmp_path):
    keys = {"max_steps": 2, "logging_steps": 1, "steps_per_generation": 2}
    folder = train(parents_of(quick_run, tmp_path / "2"), "ppo", 2, 4, keys)
    assert len(logged(folder, "loss")) == 2 and (folder / "checkpoint/model.safetensors").is_file()


@pytest.mark.slow
def test_a_mistake_ends_every_process(quick_run, tmp_path):
    run_dir = parents_of(quick_run, tmp_path / "run")
    with pytest.raises(AssertionError, match="learning_rat"):
        train(run_dir, "sft", 2, 4, {"learning_rat": 1})
