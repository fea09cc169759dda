"""Numbers that are not finite, full memory and full disks in real stages: recovery, and the files that remain."""

import errno
import logging
import os
import re
import subprocess
from pathlib import Path

import pytest
import tiny_stages as tiny
import torch
from full_memory import limit_rows
from transformers import Trainer

from alignment.durable.manifest import damage
from alignment.errors import Diverged, OutOfMemory, UserError
from alignment.models.gpt import GPTModel
from alignment.models.loading import load_tokenizer
from alignment.pipeline.recovery import smaller_micro_batch
from alignment.stages.grpo import GRPORecipe
from alignment.trainers.ppo.config import PPOConfig

QUICK = ["pretrain", "ppo"]
STAGES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in tiny.KEYS]
POISONED = ["sft", "pretrain", "reward", "dpo"]  # PPO samples its rows, and reports failures itself
MARK = 3  # the row with the fault


def poison_gradient(trainer: Trainer) -> None:
    """One NaN, in the last gradient of the optimizer: in PPO the critic's."""
    gradients = [p.grad for group in trainer.optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients[-1].view(-1)[0] = float("nan")


# ---- Not finite ----


@pytest.mark.parametrize("name", tiny.KEYS)
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(name, parents, tmp_path, at_step, caplog):
    at_step({2}, poison_gradient)
    done = tiny.run(name, parents, tmp_path / name)
    assert done["faults"] == {"skipped_steps": 1, "loss_spikes": 0}
    assert [line["step"] for line in tiny.metrics(tmp_path / name) if "skipped_step" in line] == [3]
    assert all(tensor.isfinite().all() for tensor in tiny.weights(tmp_path / name).values())
    rows = "rows unknown" if name == "grpo" else "of the training set"  # TRL's sampler cannot repeat its order
    assert "step 3 skipped: its gradient is not finite" in caplog.text and rows in caplog.text


@pytest.mark.parametrize("name", ["sft", *(pytest.param(one, marks=pytest.mark.slow) for one in POISONED[1:])])
def test_rows_that_give_no_finite_loss_are_named(name, parents, tmp_path, monkeypatch, caplog):
    stage, keys = tiny.KEYS[name]
    data = keys["dataset_name"]
    lines = (parents / data).read_text().splitlines()
    lines[MARK] = lines[MARK].replace("cat", "zzz")
    (tmp_path / data).write_text("\n".join(lines) + "\n")
    marked = load_tokenizer(str(parents / "base"))("z", add_special_tokens=False)["input_ids"][0]
    forward = GPTModel.forward

    def poisoned(self, input_ids=None, **kwargs):
        output = forward(self, input_ids=input_ids, **kwargs)
        bad = (input_ids == marked).any(1)
        output.last_hidden_state = torch.where(bad[:, None, None], float("nan"), output.last_hidden_state)
        return output

    monkeypatch.setattr(GPTModel, "forward", poisoned)
    done = tiny.run(name, parents, tmp_path / "run" / name, dataset_name=str(tmp_path / data), max_steps=-1)
    named = [match.split(", ") for match in re.findall(r"skipped: .* rows ([\d, ]+) of the training set", caplog.text)]
    assert len(named) == done["faults"]["skipped_steps"] > 0 and all(len(rows) == 4 for rows in named)
    if stage != "pretrain":  # pretraining packs its rows; the others read each row in three epochs
        assert len(named) == 3 and all(str(MARK) in rows for rows in named)


def test_after_too_many_in_a_row_training_goes_back_to_its_last_checkpoint_once(parents, tmp_path, at_step, caplog):
    left = [3]  # passes that fail, then no more: a fault of the machine, not of the data

    def fail_for_a_while(trainer):
        if left[0]:
            left[0] -= 1
            poison_gradient(trainer)

    keys = {"save_strategy": "steps", "save_steps": 2, "max_skipped_steps": 3}
    whole = tiny.run("sft", parents, tmp_path / "whole/sft", **keys)
    at_step({3, 4, 5}, fail_for_a_while)
    done = tiny.run("sft", parents, tmp_path / "again/sft", **keys)
    assert "resumes once from the last good checkpoint" in caplog.text
    # The checkpoint of step 4 was written with step 4 skipped; what was trained from there is what counts.
    assert done["faults"]["skipped_steps"] == 1 and whole["faults"]["skipped_steps"] == 0
    assert tiny.losses(tmp_path / "again/sft")[:4] == tiny.losses(tmp_path / "whole/sft")[:4]
    assert tiny.record(tmp_path / "again/sft")["status"] == "done"


@pytest.mark.parametrize("name", ["pretrain", "ppo-lora"])
def test_training_that_never_becomes_finite_ends_with_advice(name, parents, tmp_path, at_step):
    keys = {"save_strategy": "steps", "save_steps": 2, "max_skipped_steps": 2, "max_steps": 8}
    at_step(set(range(3, 9)), poison_gradient)
    with pytest.raises(Diverged, match=r"not finite in 2 steps in a row(.|\n)*learning_rate=0.001(.|\n)*rows? \d"):
        tiny.run(name, parents, tmp_path / name, **keys)
    assert tiny.record(tmp_path / name)["status"] == "failed"
    assert not (tmp_path / name / "checkpoint").exists()
    saved = sorted((tmp_path / name / "trainer").glob("checkpoint-*"))
    assert saved and not any(damage(checkpoint) for checkpoint in saved)


def test_weights_that_are_not_finite_are_saved_neither_in_a_step_checkpoint_nor_in_the_last(
    parents, tmp_path, at_step, monkeypatch
):
    def break_weights(trainer):
        with torch.no_grad():
            next(trainer.model.parameters()).view(-1)[5] = float("inf")

    keys = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    monkeypatch.setattr("alignment.callbacks.finite.FiniteGuard.on_pre_optimizer_step", lambda *args, **kwargs: None)
    at_step({1}, break_weights)
    with pytest.raises(Diverged, match="the weights are not finite, and were not saved"):
        tiny.run("pretrain", parents, tmp_path / "steps", **keys)
    assert [path.name for path in (tmp_path / "steps/trainer").glob("checkpoint-*")] == ["checkpoint-1"]
    with pytest.raises(Diverged, match="the checkpoint of end is not saved"):
        tiny.run("pretrain", parents, tmp_path / "end", max_steps=2, save_strategy="no")
    assert not (tmp_path / "end/checkpoint").exists()


# ---- Memory ----


@pytest.mark.parametrize("name", STAGES)
def test_out_of_memory_halves_the_micro_batch_and_learns_the_same(name, parents, tmp_path, monkeypatch, caplog):
    rows = 4 if tiny.KEYS[name][0] in ("reward", "dpo") else 2  # a pair is two
    whole = tiny.run(name, parents, tmp_path / "whole" / name)
    smaller = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    if name.startswith("ppo"):
        smaller |= {"steps_per_generation": 4, "per_device_eval_batch_size": 2}
    tiny.run(name, parents, tmp_path / "small" / name, **smaller)
    limit_rows(monkeypatch, rows)
    with caplog.at_level(logging.WARNING):
        done = tiny.run(name, parents, tmp_path / "limited" / name)
    assert caplog.text.count("out of memory with per_device_train_batch_size 4") == 1
    assert "resumes with per_device_train_batch_size 2, gradient_accumulation_steps 2" in caplog.text
    limited = tiny.losses(tmp_path / "limited" / name)
    assert limited == tiny.losses(tmp_path / "small" / name)
    assert limited == pytest.approx(tiny.losses(tmp_path / "whole" / name), rel=1e-3, abs=1e-5)
    assert done["tokens"] == whole["tokens"]
    records = [tiny.record(tmp_path / place / name) for place in ("whole", "limited")]
    assert records[0]["recipe_digest"] == records[1]["recipe_digest"]
    assert records[1]["micro_batch"]["per_device_train_batch_size"] == 2


def test_out_of_memory_later_resumes_from_the_last_checkpoint_and_is_remembered(
    parents, tmp_path, monkeypatch, at_step, caplog
):
    keys = {"save_strategy": "steps", "save_steps": 2}
    tiny.run("sft", parents, tmp_path / "whole/sft", **keys)
    limit_rows(monkeypatch, 2, from_call=3, error=RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"))
    started = []

    def interrupt(trainer):
        started.append((trainer.state.global_step, trainer.args.per_device_train_batch_size))
        if len(started) == 1:
            raise KeyboardInterrupt

    at_step({4}, interrupt)
    with pytest.raises(KeyboardInterrupt):
        tiny.run("sft", parents, tmp_path / "limited/sft", **keys)
    steps = [line["step"] for line in tiny.metrics(tmp_path / "limited/sft") if "loss" in line]
    assert steps == [1, 2, 3, 4]  # step 3 was begun twice
    tiny.run("sft", parents, tmp_path / "limited/sft", **keys)
    assert caplog.text.count("out of memory") == 1 and set(started) == {(4, 2)}
    whole, limited = (tiny.losses(tmp_path / place / "sft") for place in ("whole", "limited"))
    assert limited == pytest.approx(whole, rel=1e-4)


def test_out_of_memory_at_one_row_ends_with_advice(parents, tmp_path, monkeypatch):
    limit_rows(monkeypatch, 0, error=MemoryError())
    with pytest.raises(OutOfMemory, match=r"batch_size 1, per_device_eval_batch_size 1(.|\n)*activation_checkpointing"):
        tiny.run("sft", parents, tmp_path / "sft", per_device_eval_batch_size=1)
    assert tiny.record(tmp_path / "sft")["status"] == "failed"


def test_other_errors_are_not_mistaken_for_full_memory(parents, tmp_path, monkeypatch):
    limit_rows(monkeypatch, 0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        tiny.run("sft", parents, tmp_path / "sft")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((8, 1, 8), (4, 2, 4)), ((6, 3, 1), (3, 6, 1)), ((3, 1, 2), (1, 3, 1)), ((1, 4, 8), (1, 4, 4)), ((1, 4, 1), None)],
)
def test_the_optimizer_batch_and_the_rollout_stay(sizes, expected, tmp_path):
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size")
    args = PPOConfig(
        str(tmp_path), use_cpu=True, steps_per_generation=sizes[1] * 2, **dict(zip(keys, sizes, strict=True))
    )
    smaller = smaller_micro_batch(args)
    assert (smaller and tuple(smaller[key] for key in keys)) == expected
    if smaller:
        then = PPOConfig(str(tmp_path), use_cpu=True, **smaller)
        assert (then.rollout_size, then.steps_per_rollout) == (args.rollout_size, args.steps_per_rollout)


def test_groups_of_completions_stay_whole(tmp_path):
    keys = {"num_generations": 4, "generation_batch_size": 32, "eval_strategy": "steps", "eval_steps": 2}
    keys |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    for evaluated, smaller_one in [(16, 8), (12, 4), (4, 4)]:
        args = GRPORecipe(str(tmp_path), use_cpu=True, per_device_eval_batch_size=evaluated, **keys)
        smaller = smaller_micro_batch(args)
        assert smaller["per_device_eval_batch_size"] == smaller_one
        then = GRPORecipe(str(tmp_path), use_cpu=True, **keys | smaller)
        assert (then.generation_batch_size, then.steps_per_rollout) == (32, 2)
    keys |= {"per_device_train_batch_size": 1}
    assert smaller_micro_batch(GRPORecipe(str(tmp_path), use_cpu=True, per_device_eval_batch_size=4, **keys)) is None


# ---- Disk ----


@pytest.mark.parametrize("name", ["sft", pytest.param("ppo", marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_last_checkpoint_and_training_resumes_from_it(name, parents, tmp_path, monkeypatch):
    keys = {"save_strategy": "steps", "save_steps": 2}
    tiny.run(name, parents, tmp_path / "whole" / name, **keys)
    save = torch.save

    def full(value, path, *args, **kwargs):
        if "checkpoint-4" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"no space left on the disk(.|\n)*free(.|\n)*repeat the command"):
        tiny.run(name, parents, tmp_path / "full" / name, **keys)
    assert damage(tmp_path / "full" / name / "trainer/checkpoint-2") == []
    monkeypatch.setattr(torch, "save", save)
    tiny.run(name, parents, tmp_path / "full" / name, **keys)
    assert tiny.same(tiny.weights(tmp_path / "full" / name), tiny.weights(tmp_path / "whole" / name))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of the given size, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str, *options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def test_a_disk_that_is_really_full(parents, tmp_path, small_disk):
    keys = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 6}
    tiny.run("sft", parents, tmp_path / "whole/sft", **keys)
    disk = small_disk("1200k")
    with pytest.raises(UserError, match=r"no space left on the disk"):
        tiny.run("sft", parents, disk / "run/sft", **keys)
    intact = [path for path in (disk / "run/sft/trainer").glob("checkpoint-*") if not damage(path)]
    assert intact
    small_disk("20m", "remount")
    tiny.run("sft", parents, disk / "run/sft", **keys)
    assert tiny.same(tiny.weights(disk / "run/sft"), tiny.weights(tmp_path / "whole/sft"))
