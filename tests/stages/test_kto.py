"""The KTO stage: its loss against the paper's, its reference in each adapter mode, resuming, and what it refuses."""

import json

import pytest
import stage_cases as cases
import tiny_stages as tiny
import torch
from check_cases import Case
from covering import covering
from trl import KTOTrainer

from alignment.callbacks.stop_on_signal import StopOnSignal
from alignment.errors import Interrupted, UserError
from alignment.estimate.compute import Device
from alignment.estimate.estimate import estimate
from alignment.estimate.workload import TokenStatistics
from alignment.models.loading import load_config
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.recovery import smaller_micro_batch
from alignment.pipeline.stage_spec import stage_module
from alignment.stages.kto import KTORecipe

BATCHES = {"micro_batch": [8, 4, 2], "attention": ["sdpa", "eager"], "multiple": [None, 16]}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("parents"))


@pytest.mark.parametrize("row", covering({"adapter": [False, True]} | BATCHES), ids=str)
def test_a_step_is_the_papers(row, bases, tmp_path):
    """With the KL of each micro-batch, and labels of unlike weight."""
    case, setting = cases.Case(adapter=row["adapter"]), cases.Setting(**{name: row[name] for name in BATCHES})
    trainer = cases.kto_trainer(case, setting, bases, tmp_path)
    assert {bool(example["label"]) for example in trainer.train_dataset} == {True, False}
    cases.check_trainer(trainer, cases.kto_loss(trainer))


def test_rows_are_shuffled_once(bases, tmp_path):
    """TRL takes them in order, in which the replies of a pair are neighbours, or those of a label."""
    kept = [cases.kto_trainer(cases.Case(), cases.Setting(), bases, tmp_path / str(n), seed=n) for n in (1, 1, 2)]
    orders = [[row["completion_ids"] for row in trainer.train_dataset] for trainer in kept]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize("keys", [{}, tiny.LORA], ids=["full", "new adapter"])
def test_training_starts_at_the_reference_and_leaves_it(folder, tmp_path, keys):
    result = tiny.run("kto", folder, tmp_path / "kto", max_steps=4, **keys)
    lines = [line for line in tiny.metrics(tmp_path / "kto") if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-6) and lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert abs(lines[-1]["loss"] - 0.5) > 1e-4
    assert result["method"] == "kto" and "margins 0" in [one["name"] for one in result["self_check"]["checks"]]


@pytest.mark.parametrize("mode", ["continue", "stack", "merge"])
def test_the_reference_is_the_parent_in_each_adapter_mode(folder, tmp_path, mode):
    tiny.run("sft-lora", folder, tmp_path / "sft", max_steps=2)
    new = {} if mode == "continue" else tiny.LORA
    parent = {"model_name_or_path": str(tmp_path / "sft/checkpoint"), "adapter_mode": mode}
    tiny.run("kto", folder, tmp_path / "kto", max_steps=2, **parent, **new)
    line = next(line for line in tiny.metrics(tmp_path / "kto") if "loss" in line)
    assert line["loss"] == pytest.approx(0.5, abs=1e-6 if mode != "merge" else 1e-4)
    assert json.loads((tmp_path / "kto/stage.json").read_text())["adapter_chain"]


def test_resumed_equals_uninterrupted(folder, tmp_path, monkeypatch):
    """In the second epoch, whose rows come in the same order."""
    keys = {"max_steps": -1, "num_train_epochs": 2, "save_steps": 3, "save_strategy": "steps"}
    tiny.run("kto", folder, tmp_path / "whole", **keys)
    steps = len(tiny.losses(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        on_step_end = StopOnSignal.on_step_end

        def stop(self, args, state, control, **kwargs):
            on_step_end(self, args, state, control, **kwargs)
            if state.global_step == steps - 2:
                raise Interrupted(15, "stopped")

        patch.setattr(StopOnSignal, "on_step_end", stop)
        with pytest.raises(Interrupted):
            tiny.run("kto", folder, tmp_path / "stopped", **keys)
    tiny.run("kto", folder, tmp_path / "stopped", **keys)
    assert tiny.losses(tmp_path / "stopped") == tiny.losses(tmp_path / "whole")
    assert tiny.same(tiny.weights(tmp_path / "stopped"), tiny.weights(tmp_path / "whole"))


def test_a_reference_that_is_another_model_is_seen(folder, tmp_path, monkeypatch):
    compute_loss = KTOTrainer.compute_loss

    def stirred(self, *arguments, **options):
        with torch.no_grad():
            for parameter in self.ref_model.parameters():
                parameter.mul_(1.1)
        return compute_loss(self, *arguments, **options)

    monkeypatch.setattr(KTOTrainer, "compute_loss", stirred)
    with pytest.raises(UserError, match="the reference differs from the model that training starts from"):
        tiny.run("kto", folder, tmp_path / "kto")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"per_device_train_batch_size": 1}, "other replies in the batch"),
        ({"train_sampling_strategy": "random"}, "neighbours in a batch"),
        ({"loss_type": "dpo"}, "loss_type is not known"),
    ],
)
def test_settings_that_trl_would_stumble_over_are_refused(folder, tmp_path, keys, problem):
    with pytest.raises(UserError, match=problem):
        tiny.run("kto", folder, tmp_path / "kto", **keys)
    assert not (tmp_path / "kto").exists()


@pytest.mark.parametrize(("loss_type", "size", "expected"), [("kto", 4, 2), ("kto", 2, None), ("kto", 3, None)])
def test_recovery_from_a_full_memory_keeps_two_rows_for_the_kl(loss_type, size, expected, tmp_path):
    keys = {"use_cpu": True, "bf16": False, "per_device_eval_batch_size": 1}
    args = KTORecipe(str(tmp_path), per_device_train_batch_size=size, loss_type=loss_type, **keys)
    smaller = smaller_micro_batch(args)
    assert (smaller and smaller["per_device_train_batch_size"]) == expected
    args = KTORecipe(str(tmp_path), per_device_train_batch_size=2, loss_type="apo_zero_unpaired", **keys)
    assert smaller_micro_batch(args)["per_device_train_batch_size"] == 1


def test_without_a_kl_any_batch_and_order_will_do(folder, tmp_path):
    keys = {"loss_type": "apo_zero_unpaired", "per_device_train_batch_size": 1, "train_sampling_strategy": "random"}
    assert tiny.run("kto", folder, tmp_path / "kto", max_steps=2, **keys)["method"] == "kto"


def test_checks_find_nothing_in_a_sound_recipe_and_equal_labels_in_another(tmp_path, capsys):
    code, printed = Case(tmp_path / "sound", "kto").check(capsys)
    assert code == 0 and "error" not in printed.replace("0 errors", "")
    rows = [{"prompt": f"Say {number}.", "completion": f"Yes: {number}.", "label": True} for number in range(8)]
    code, printed = Case(tmp_path / "alike", "kto", rows=rows).check(capsys)
    assert code == 1 and "all labels are the same" in printed


def test_the_estimate_has_the_reference_and_the_steps_of_the_trainer(folder, tmp_path):
    given = {"output_dir": "nowhere", "dataset_name": "rows", "model_name_or_path": "here", "bf16": False}
    rows, device = TokenStatistics(32, 20, 30), Device("a machine", 10**10)

    def predicted(**keys):
        configs = build_configs(stage_module("kto", "alignment.stages").CONFIGS, given | keys, "a test")
        return estimate("kto", configs, load_config(folder / "base"), rows, device)

    whole = predicted(per_device_train_batch_size=4, num_train_epochs=1)
    assert whole.memory["reference model"] == 4 * whole.parameters
    assert "reference model" not in predicted(use_peft=True).memory
    tiny.run("kto", folder, tmp_path / "kto", max_steps=-1, num_train_epochs=1)
    lines = len((folder / "pairs.jsonl").read_text().splitlines())
    expected = predicted(per_device_train_batch_size=4, num_train_epochs=1)
    assert len(tiny.losses(tmp_path / "kto")) == expected.steps * 2 * lines // rows.rows
