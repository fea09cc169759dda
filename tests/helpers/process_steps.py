"""Two steps of every stage, by one process or by several that share the same rows; run as a program, or called.

Rows, completions and batches are those of `stage_cases` and `ppo_cases`; what is left is what each process does.
"""

import json
import sys
from pathlib import Path

import pytest
import stage_cases
from accelerate import PartialState
from ppo_cases import Case as PPOCase
from ppo_cases import Setting as PPOSetting
from ppo_cases import make
from router_cases import TEXT, parent
from safetensors.torch import save_file
from stage_cases import Case, Setting

from alignment.stages import pretrain, reward

STAGES = ("pretrain", "chunked", "experts", "sft", "reward", "dpo", "ppo", "ppo-heads", "ppo-lora", "grpo")
LONG = [{"text": "zebra river stone lamp " * 9}] * 2  # with which the documents take 8 rows: 7 would be filled up
PPO_OF = {
    "ppo": ("gpt", False, "separate"),
    "ppo-heads": ("llama", False, "shared_head"),
    "ppo-lora": ("gpt", True, "lora"),
}
LOGGED = (
    "loss",
    "reward",
    "reward_std",
    "kl",
    "kl/completion",
    "entropy",
    "loss/policy",
    "loss/value",
    "advantages/std",
)
KEYS = {"max_steps": 2, "seed": 1, "data_seed": 1, "num_train_epochs": 2, "train_sampling_strategy": "random"}


def run(stage: str, rows: int, bases: Path, out: Path, monkeypatch) -> tuple[dict, list[dict]]:
    """The trained weights and what was logged; `rows` of 8 are this process's, in two micro-batches."""
    setting = Setting(micro_batch=rows // 2)
    keys = KEYS | {"gradient_accumulation_steps": 2}
    if stage in PPO_OF:
        return ppo(stage, rows, bases, out, monkeypatch)
    if stage in ("pretrain", "chunked", "experts"):
        return pretrained(stage, setting, bases, out, keys)
    if stage == "reward":
        return rewarded(setting, bases, out, keys)
    if stage == "grpo":
        trainer = stage_cases.grpo_trainer(Case(), setting, bases, out, monkeypatch, **keys)
    else:
        make_trainer = {"sft": stage_cases.sft_trainer, "dpo": stage_cases.dpo_trainer}[stage]
        trainer = make_trainer(Case(adapter=stage == "dpo"), setting, bases, out, **keys)
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    return dict(model.named_parameters()), trainer.state.log_history


class Kept(stage_cases.Watch):
    """Keeps the model that a stage has trained."""

    def on_train_end(self, args, state, control, model, **kwargs):
        self.model = PartialState() and getattr(model, "module", model)


def pretrained(stage: str, setting: Setting, bases: Path, out: Path, keys: dict) -> tuple[dict, list[dict]]:
    """Of experts: copies of one document, of which the load balance is the same in every micro-batch."""
    experts = stage == "experts"
    rows = [{"text": TEXT}] * 8 if experts else stage_cases.documents() * 2 + LONG
    words = stage_cases.ragged.tokenizer("ours")
    length = len(words(TEXT)["input_ids"]) + 1 if experts else 64
    options = {"max_length": length, "loss_chunk_size": 7 if stage == "chunked" else None} | keys
    args = pretrain.PretrainRecipe(str(out / "stage"), **stage_cases.KEYS | setting.keys() | options)
    base = parent(bases) if experts else stage_cases.base_of(Case(), bases)
    watch = Kept()
    model_args, data = pretrain.PretrainArguments(model_name_or_path=base), written(out, rows)
    pretrain.run(model_args, data, args, [watch])
    return dict(watch.model.named_parameters()), watch.logs


def rewarded(setting: Setting, bases: Path, out: Path, keys: dict) -> tuple[dict, list[dict]]:
    args = reward.RewardRecipe(str(out / "stage"), **stage_cases.KEYS | setting.keys() | {"max_length": 120} | keys)
    data, watch = written(out, stage_cases.preferences(), reward.RewardArguments), Kept()
    reward.run(args, data, stage_cases.model_arguments(Case(), setting, bases, "score"), [watch])
    return dict(watch.model.named_parameters()), watch.logs


def written(out: Path, rows: list[dict], kind: type = stage_cases.DataArguments):
    with PartialState().main_process_first():
        return stage_cases.data_of(out / "rows.jsonl", rows, kind)


def ppo(stage: str, rows: int, bases: Path, out: Path, monkeypatch) -> tuple[dict, list[dict]]:
    keys = {"max_steps": 2, "per_device_train_batch_size": rows // 2, "gradient_accumulation_steps": 2, "optim": "sgd"}
    keys |= {"learning_rate": 0.05, "value_learning_rate": 0.05, "whiten_rewards": True}
    keys |= {"kl_target": 2.0, "reward_normalization": True, "lr_scheduler_type": "constant"}
    trainer = make(PPOCase(*PPO_OF[stage]), PPOSetting(eval_batch=3), bases, monkeypatch, **keys)
    trainer.train()
    weights = dict(trainer.model.named_parameters())
    weights |= {f"critic.{name}": one for name, one in trainer.critic.trained().items()}
    return weights, trainer.state.log_history


def main(bases: str, out: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        state = PartialState(cpu=True)
        for stage in STAGES:
            weights, logs = run(stage, 8 // state.num_processes, Path(bases), Path(out) / stage, monkeypatch)
            if state.is_main_process:
                kept = {name: one.detach().clone().contiguous() for name, one in weights.items()}
                save_file(kept, Path(out) / f"{stage}.safetensors")
                names = LOGGED if stage in PPO_OF else ("loss", "reward")  # others of TRL's are means of micro-batches
                lines = [{name: line[name] for name in names if name in line} for line in logs]
                (Path(out) / f"{stage}.json").write_text(json.dumps([line for line in lines if line]))
            state.wait_for_everyone()
        state.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
