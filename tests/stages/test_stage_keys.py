"""Recipe keys that every trainer stage has: impossible values are refused before anything runs."""

import math

import pytest

from alignment.errors import UserError
from alignment.stages.keys.trainer_keys import require_optimizer
from alignment.stages.ppo import PPORecipe
from alignment.stages.pretrain import PretrainRecipe
from alignment.stages.sft import SFTRecipe


@pytest.mark.parametrize("recipe", [SFTRecipe, PPORecipe, PretrainRecipe])
@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is too small"),
        ({"per_device_eval_batch_size": -2}, "per_device_eval_batch_size is too small"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is too small"),
        ({"learning_rate": -1e-3}, "learning_rate is not a rate"),
        ({"learning_rate": math.nan}, "learning_rate is not a rate"),
        ({"learning_rate": math.inf}, "learning_rate is not a rate"),
        ({"seed": -1}, "seed is too small"),
        ({"seed": 2**32}, "seed is too large"),
        ({"data_seed": -5}, "data_seed is too small"),
        ({"weight_decay": math.nan}, "weight_decay is too small"),
        ({"weight_decay": -1.0}, "weight_decay is too small"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is too small"),
        ({"adam_epsilon": 0.0}, "adam_epsilon is too small"),
        ({"adam_beta1": 1.0}, "the optimizer cannot be made"),
        ({"adam_beta2": 2.0}, "the optimizer cannot be made"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
        ({"lr_scheduler_kwargs": {"unheard": 1}}, "unheard"),
        ({"save_strategy": "steps", "save_steps": 0}, "save_steps is too small"),
        ({"logging_steps": -3}, "logging_steps is too small"),
        ({"eval_strategy": "steps", "eval_steps": -1}, "eval_steps is too small"),
        ({"num_train_epochs": 0}, "nothing would be trained"),
        ({"num_train_epochs": -1, "max_steps": 0}, "nothing would be trained"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers is too small"),
        ({"report_to": "unheard"}, "report_to"),
        ({"report_to": ["wandb"]}, "report_to"),
        ({"label_smoothing_factor": 2.0}, "label_smoothing_factor"),
    ],
)
def test_impossible_values_are_refused(recipe, keys, problem, tmp_path):
    with pytest.raises(UserError, match=problem):
        recipe(str(tmp_path), use_cpu=True, bf16=False, **keys)
    assert recipe(str(tmp_path), use_cpu=True, bf16=False, learning_rate=0.0, seed=2**32 - 1).seed == 2**32 - 1


def test_all_impossible_values_are_reported_together(tmp_path):
    with pytest.raises(UserError) as raised:
        SFTRecipe(str(tmp_path), use_cpu=True, bf16=False, seed=-1, gradient_accumulation_steps=0)
    assert "seed" in str(raised.value) and "gradient_accumulation_steps" in str(raised.value)


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"])
def test_an_optimizer_of_another_machine_is_refused_only_where_it_runs(optim, tmp_path, monkeypatch):
    for package in ("bitsandbytes", "torchao"):
        monkeypatch.setattr(f"transformers.trainer_optimizer.is_{package}_available", lambda: False)
    args = SFTRecipe(str(tmp_path), use_cpu=True, bf16=False, optim=optim)
    if optim == "adamw_torch_fused":
        return require_optimizer(args)
    with pytest.raises(UserError, match=f"package of the optimizer {optim}"):
        require_optimizer(args)
