"""Recipe keys that every trainer stage has: impossible values are refused before anything runs."""

import math

import pytest

from alignment.errors import UserError
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
