"""Stages under FSDP2 on CPUs, where accelerate ignores it without a word; run as a program by `torchrun`, or with one
process for the same stages without sharding. Each stage is run to its end, so that its checkpoint is written."""

import json
import os
import sys
from pathlib import Path

import pytest
import stage_cases
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from process_steps import LONG
from stage_cases import Case, Setting
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from alignment.stages import dpo, kto, pretrain, reward, sft

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "GPTDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
# Stage -> the kind of its model; the embeddings of the learned positions' are tied.
STAGES = {
    "pretrain": "gpt",
    "pretrain-tied": "learned",
    "sft": "learned",
    "reward": "gpt",
    "reward-lora": "gpt",
    "dpo": "learned",
    "kto": "gpt",
}
KEYS = stage_cases.KEYS | {"max_steps": 2, "num_train_epochs": 2, "train_sampling_strategy": "random", "seed": 1}
ROWS = {
    "pretrain": lambda: stage_cases.documents() * 2 + LONG,
    "sft": stage_cases.conversations,
    "reward": stage_cases.preferences,
    "dpo": stage_cases.preferences,
    "kto": stage_cases.labelled,
}
MORE = {
    "pretrain": {"max_length": 64},
    "sft": {"max_length": 120},
    "reward": {"max_length": 120},
    "dpo": {"max_length": 120, "beta": 0.5, "loss_type": ["sigmoid"], "loss_weights": None},
    "kto": {"max_length": 120, "beta": 0.5, "loss_type": "apo_zero_unpaired"},  # without neighbours in the batch
}
MODULES = {
    "sft": (sft, sft.SFTRecipe),
    "reward": (reward, reward.RewardRecipe),
    "dpo": (dpo, dpo.DPORecipe),
    "kto": (kto, kto.KTORecipe),
}


class Watch(TrainerCallback):
    """Counts the parameters that are sharded when training begins."""

    def __init__(self):
        self.sharded = self.all = 0

    def on_train_begin(self, args, state, control, model, **kwargs):
        found = [isinstance(parameter, DTensor) for parameter in model.parameters()]
        self.sharded, self.all = sum(found), len(found)


def shard_on_cpus(monkeypatch) -> None:
    """Let accelerate take FSDP for the processes of a CPU, as it does for those of GPUs."""
    begin = AcceleratorState.__init__

    def begin_sharded(self, *args, fsdp_plugin=None, **kwargs):
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    monkeypatch.setattr(AcceleratorState, "__init__", begin_sharded)


def run(stage: str, processes: int, bases: Path, out: Path) -> Watch:
    """Run a stage on 8 rows a step, in two micro-batches of each process."""
    watch, setting, method = Watch(), Setting(micro_batch=4 // processes), stage.split("-")[0]
    case = Case(model=STAGES[stage])
    keys = KEYS | setting.keys() | {"gradient_accumulation_steps": 2} | MORE[method]
    kind = reward.RewardArguments if method == "reward" else stage_cases.DataArguments
    with PartialState().main_process_first():
        data = stage_cases.data_of(out / f"{stage}.jsonl", ROWS[method](), kind)
        base = stage_cases.parent_of(case, bases, "score" if method == "reward" else "lm")
    if method == "pretrain":
        args = pretrain.PretrainRecipe(str(out / stage), **keys)
        pretrain.run(pretrain.PretrainArguments(model_name_or_path=base), data, args, [watch])
        return watch
    adapter = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0} if stage == "reward-lora" else {}
    model_args = stage_cases.ModelArguments(base, attn_implementation="sdpa", **adapter)
    module, recipe = MODULES[method]
    module.run(recipe(str(out / stage), **keys), data, model_args, [watch])
    return watch


def main(bases: str, out: str, *stages: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            shard_on_cpus(monkeypatch)
            for name, value in FSDP.items():
                monkeypatch.setenv(name, os.environ.get(name, value))
        state = PartialState(cpu=True)
        for stage in stages or STAGES:
            torch.manual_seed(0)
            watch = run(stage, processes, Path(bases), Path(out))
            if state.is_main_process:
                (Path(out) / f"{stage}.json").write_text(json.dumps([watch.sharded, watch.all]))
            state.wait_for_everyone()
            print(stage, "done", flush=True)
        state.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
