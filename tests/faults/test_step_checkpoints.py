"""When step checkpoints are written, which are kept, and what a resumed training restores."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from gpt_tiny import MODERN, build
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

import alignment.callbacks.step_checkpoints as checkpoints
from alignment.callbacks.clock import StageClock
from alignment.callbacks.metrics_log import MetricsWriter
from alignment.durable.manifest import MANIFEST, write_manifest
from alignment.durable.steps import Progress, all_steps, newest_complete, newest_intact, prune
from alignment.errors import UserError
from alignment.stages.pretrain import PretrainRecipe
from alignment.stages.shared.stage_run import StageRun
from alignment.trainers.pretrain.trainer import PretrainTrainer


class Interrupted(Exception):
    pass


class InterruptAt(TrainerCallback):
    def __init__(self, step: int, event: str = "on_step_end"):
        self.step = step
        setattr(self, event, self.interrupt)

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Interrupted


def rows(count: int, seed: int) -> Dataset:
    ids = torch.randint(4, 90, (count, 8), generator=torch.Generator().manual_seed(seed)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "position_ids": [list(range(8))] * count})


def recipe(folder: Path, **options) -> PretrainRecipe:
    usual = {"output_dir": str(folder), "per_device_train_batch_size": 4, "logging_steps": 2, "use_cpu": True}
    usual |= {"num_train_epochs": 4, "learning_rate": 0.02, "save_minutes": None, "report_to": "none"}
    return PretrainRecipe(**usual | {"disable_tqdm": True} | options)


def learn(folder: Path, *callbacks: TrainerCallback, **options) -> PretrainTrainer:
    """Train on 12 rows, 3 steps per epoch; the validation loss soon rises."""
    args = recipe(folder, **options)
    stage = StageRun("pretrain", args, callbacks)
    trainer = PretrainTrainer(build(MODERN), args, None, rows(12, 1), rows(8, 2), callbacks=stage.callbacks)
    stage.train(trainer, [])
    return trainer


def same_weights(one: PretrainTrainer, other: PretrainTrainer) -> bool:
    states = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


KEEP_BEST = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "save_total_limit": 1}


@pytest.mark.parametrize("interruption", [(10, "on_step_end"), (12, "on_save")])
def test_the_best_of_an_earlier_attempt_is_loaded_though_the_folder_was_moved(tmp_path, interruption):
    whole = learn(tmp_path / "whole", **KEEP_BEST)
    assert whole.state.best_global_step < whole.state.global_step == 12
    with pytest.raises(Interrupted):
        learn(tmp_path / "first", InterruptAt(*interruption), **KEEP_BEST)
    best, newest = (path.name for path in all_steps(tmp_path / "first/trainer"))
    assert best == f"checkpoint-{whole.state.best_global_step}" and newest in ("checkpoint-9", "checkpoint-12")
    (tmp_path / "first").rename(tmp_path / "moved")
    again = learn(tmp_path / "moved", **KEEP_BEST)
    assert again.state.log_history[-1]["step"] == 12 and same_weights(whole, again)
    assert again.state.best_model_checkpoint == str(tmp_path / "moved/trainer" / best)


def test_a_step_checkpoint_with_a_damaged_best_is_not_resumed_from(tmp_path, caplog):
    with pytest.raises(Interrupted):
        learn(tmp_path, InterruptAt(10), **KEEP_BEST)
    best = all_steps(tmp_path / "trainer")[0]
    (best / "model.safetensors").unlink()
    with caplog.at_level("WARNING", logger="alignment"):
        assert newest_intact(tmp_path / "trainer") is None
    assert f"{best.name}, the best so far: model.safetensors is missing" in caplog.text


def test_without_the_optimizer_training_starts_over(tmp_path, caplog):
    options = {"save_strategy": "steps", "save_steps": 4, "save_only_model": True}
    whole = learn(tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        learn(tmp_path / "again", InterruptAt(10), **options)
    assert newest_complete(tmp_path / "again/trainer") is None
    with caplog.at_level("WARNING", logger="alignment"):
        again = learn(tmp_path / "again", **options)
    assert "the recipe saves only the model, without the state of training" in caplog.text
    assert next(e["step"] for e in again.state.log_history if "loss" in e) == 2 and same_weights(whole, again)


def test_early_stopping_resumes_its_count(tmp_path):
    options = KEEP_BEST | {"num_train_epochs": 8, "save_total_limit": None}
    whole = learn(tmp_path / "whole", EarlyStoppingCallback(3), **options)
    stopped = whole.state.global_step
    assert 9 <= stopped < 24
    with pytest.raises(Interrupted):
        learn(tmp_path / "again", EarlyStoppingCallback(3), InterruptAt(stopped - 2), **options)
    again = learn(tmp_path / "again", EarlyStoppingCallback(3), **options)
    assert again.state.global_step == stopped and same_weights(whole, again)


def test_a_finished_training_is_not_trained_further(tmp_path):
    whole = learn(tmp_path, max_steps=7, save_strategy="steps", save_steps=3)
    assert Progress.read(newest_intact(tmp_path / "trainer")).trained
    again = learn(tmp_path, max_steps=7, save_strategy="steps", save_steps=3)
    assert again.state.global_step == 7 and same_weights(whole, again)
    losses = [[e["train_loss"] for e in one.state.log_history if "train_loss" in e] for one in (whole, again)]
    assert losses[1][-1] == pytest.approx(losses[0][0])


def test_a_complete_step_checkpoint_is_kept_until_the_next_is_complete(tmp_path, monkeypatch):
    seen = []

    def looking(checkpoint):
        complete = [path.name for path in all_steps(checkpoint.parent) if (path / MANIFEST).exists()]
        seen.append((checkpoint.name, complete))
        write_manifest(checkpoint)

    monkeypatch.setattr(checkpoints, "write_manifest", looking)
    learn(tmp_path, save_strategy="steps", save_steps=4, save_total_limit=1)
    assert seen == [
        ("checkpoint-4", []),
        ("checkpoint-8", ["checkpoint-4"]),
        ("checkpoint-12", ["checkpoint-8"]),
    ]
    assert [path.name for path in all_steps(tmp_path / "trainer")] == ["checkpoint-12"]


def test_a_step_checkpoint_that_cannot_be_sealed_stops_the_training_and_leaves_the_one_before(tmp_path, monkeypatch):
    def full(checkpoint):
        if checkpoint.name == "checkpoint-8":
            raise OSError(28, "No space left on device")
        write_manifest(checkpoint)

    monkeypatch.setattr(checkpoints, "write_manifest", full)
    with pytest.raises(OSError, match="No space"):
        learn(tmp_path, save_strategy="steps", save_steps=4, save_total_limit=1)
    assert newest_intact(tmp_path / "trainer").name == "checkpoint-4"


class Planted:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_code_of_a_step_checkpoint_runs(tmp_path, name):
    with pytest.raises(Interrupted):
        learn(tmp_path / "stage", InterruptAt(5), save_strategy="steps", save_steps=4)
    checkpoint = newest_intact(tmp_path / "stage/trainer")
    torch.save({"state": Planted(tmp_path / "ran")}, checkpoint / name)
    write_manifest(checkpoint)  # as an attacker would
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        learn(tmp_path / "stage")
    assert not (tmp_path / "ran").exists()


def saved_at(tmp_path: Path, options: dict, minutes_a_step: float, monkeypatch, requested: int = 0) -> list[int]:
    """Return the steps with a step checkpoint among 30 steps, 10 per epoch, with a log every 5 steps."""
    now = 0.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    args = recipe(tmp_path / "stage", save_strategy="no", **options)
    clock = StageClock()
    own = checkpoints.StepCheckpoints(args, Progress(), MetricsWriter(tmp_path / "metrics.jsonl", clock), clock)
    state, control, saved = TrainerState(), TrainerControl(), []
    for step in range(1, 31):
        now += 60 * minutes_a_step
        state.global_step, state.epoch = step, (step - 1) // 10 + ((step - 1) % 10 + 1) / 10
        for event in [own.on_step_end] + [own.on_epoch_end] * (step % 10 == 0):
            control.should_log = step % 5 == 0 and event == own.on_step_end
            if step == requested:
                own.request()
            event(args, state, control)
            if control.should_save:
                assert control.should_log
                saved.append((step, "epoch" if event == own.on_epoch_end else "step"))
                own.requested, own.last_save, control.should_save = False, now, False
    return saved


def test_step_checkpoints_by_time_come_with_a_log_and_after_an_epochs_evaluation(tmp_path, monkeypatch):
    assert saved_at(tmp_path, {"save_minutes": 5.0}, 0.1, monkeypatch) == []
    assert saved_at(tmp_path, {"save_minutes": 5.0}, 1.1, monkeypatch) == [
        (5, "step"),
        (10, "epoch"),
        (15, "step"),
        (20, "epoch"),
        (25, "step"),
        (30, "epoch"),
    ]
    assert saved_at(tmp_path, {"save_minutes": 11.0}, 1.0, monkeypatch) == [(15, "step"), (30, "epoch")]
    assert saved_at(tmp_path, {"save_minutes": None}, 1.0, monkeypatch) == []
    assert saved_at(tmp_path, {"save_minutes": None}, 1.0, monkeypatch, requested=7) == [(7, "step")]


def test_step_checkpoints_of_ppo_are_between_rollouts(tmp_path, monkeypatch):
    monkeypatch.setattr(PretrainRecipe, "steps_per_rollout", 4, raising=False)
    assert saved_at(tmp_path, {"save_minutes": None}, 1.0, monkeypatch, requested=5) == [(8, "step")]


def test_a_finished_stage_keeps_the_step_checkpoints_of_its_recipe(tmp_path):
    def left(name: str, **options) -> list[str]:
        trainer = learn(tmp_path / name, **options)
        checkpoints.own_callback(trainer, checkpoints.StepCheckpoints).tidy(trainer.state)
        return [path.name for path in all_steps(tmp_path / name / "trainer")]

    assert left("time", save_strategy="no", save_minutes=0) == []
    assert left("best", **KEEP_BEST) == ["checkpoint-3"]
    assert left("two", save_strategy="steps", save_steps=4, save_total_limit=2) == ["checkpoint-8", "checkpoint-12"]
    assert left("all", save_strategy="steps", save_steps=4) == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]


def test_pruning_takes_the_oldest_and_never_the_protected(tmp_path):
    for step in (2, 4, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-notes")
    prune(tmp_path, 3, [tmp_path / "checkpoint-2"])
    assert [path.name for path in all_steps(tmp_path)] == ["checkpoint-2", "checkpoint-10", "checkpoint-12"]
    prune(tmp_path, 1, [tmp_path / "checkpoint-2", tmp_path / "checkpoint-12"])
    assert [path.name for path in all_steps(tmp_path)] == ["checkpoint-2", "checkpoint-12"]


def test_keys_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(UserError, match="resume_from_checkpoint is not a recipe key"):
        recipe(tmp_path, resume_from_checkpoint="somewhere")
    with pytest.raises(UserError, match="save_minutes is too small"):
        recipe(tmp_path, save_minutes=-1)
