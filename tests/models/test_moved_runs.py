"""A run directory that was moved or copied still loads, adapters and their bases included."""

import json
import shutil
from pathlib import Path

import ppo_tiny as tiny
import pytest
import torch
from peft import get_peft_model

from alignment.durable.manifest import cover, digest_checkpoint, new_checkpoint
from alignment.models.checkpoints import adapter_base
from alignment.models.loading import load_causal_lm, load_trainable
from alignment.stages.shared.saving import save_checkpoint

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(params=["relative", "absolute"])
def run(tmp_path, monkeypatch, request) -> Path:
    """old/run: a base, an adapter on it, and an adapter that went on from that one; made from where old/ is seen."""
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    folder = Path("run") if request.param == "relative" else tmp_path / "old/run"
    with new_checkpoint(folder / "base/checkpoint") as checkpoint:
        save_checkpoint(tiny.model(), tiny.tokenizer(), checkpoint)
    policy = tiny.active(get_peft_model(tiny.model(), tiny.lora()))
    policy.peft_config["default"].base_model_name_or_path = str(folder / "base/checkpoint")
    write_adapter(policy, folder / "sft")
    child = load_trainable(folder / "sft/checkpoint", "causal-lm")
    for name, parameter in child.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    write_adapter(child, folder / "dpo")
    return tmp_path / "old/run"


def write_adapter(model, stage_dir: Path) -> None:
    with new_checkpoint(stage_dir / "checkpoint") as folder:
        save_checkpoint(model, tiny.tokenizer(), folder)
    base = model.peft_config[model.active_adapter].base_model_name_or_path
    lineage = {"stage": stage_dir.name, "method": "sft", "base_digest": digest_checkpoint(base), "parents": {}}
    (stage_dir / "checkpoint/lineage.json").write_text(json.dumps(lineage))
    cover(stage_dir / "checkpoint", "lineage.json")


def answers(run: Path) -> list[torch.Tensor]:
    with torch.no_grad():
        return [load_causal_lm(run / stage / "checkpoint")[0](IDS).logits for stage in ("base", "sft", "dpo")]


def test_a_moved_run_loads_from_anywhere(run, tmp_path, monkeypatch):
    before = answers(run)
    run.parent.rename(tmp_path / "new")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for one, other in zip(before, answers(tmp_path / "new/run"), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(before[1], before[2])


def test_a_copy_uses_its_own_base_while_the_original_stands(run, tmp_path):
    before = answers(run)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for stage in ("sft", "dpo"):
        assert Path(adapter_base(copy / stage / "checkpoint")).samefile(copy / "base/checkpoint")
        assert Path(adapter_base(run / stage / "checkpoint")).samefile(run / "base/checkpoint")
    shutil.rmtree(run)
    for one, other in zip(before, answers(copy), strict=True):
        assert torch.equal(one, other)


def test_what_is_trained_in_a_copy_names_the_copys_base(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    child = load_trainable(copy / "dpo/checkpoint", "causal-lm")
    assert Path(child.peft_config["default"].base_model_name_or_path).samefile(copy / "base/checkpoint")


def test_an_adapter_on_a_base_of_another_run_stays_on_it(run, tmp_path):
    """A stage of the same name beside it is another model."""
    other = tmp_path / "other"
    with new_checkpoint(other / "base/checkpoint") as folder:
        save_checkpoint(tiny.model(seed=3), tiny.tokenizer(), folder)
    shutil.copytree(run / "sft", other / "sft")
    assert Path(adapter_base(other / "sft/checkpoint")).samefile(run / "base/checkpoint")
    with torch.no_grad():
        moved, own = (load_causal_lm(place / "sft/checkpoint")[0](IDS).logits for place in (other, run))
    assert torch.equal(moved, own)
