"""What the PPO stage does with prompts that leave no room for a completion."""

import logging

import ppo_tiny as tiny
import pytest
from datasets import Dataset, DatasetDict

from alignment.errors import UserError
from alignment.stages.common import require_context
from alignment.stages.ppo import without_long_prompts


def prompts(*lengths: int) -> Dataset:
    return Dataset.from_list([{"prompt": " ".join(["w1"] * length), "target": length} for length in lengths])


def test_prompts_without_room_are_dropped_and_counted(caplog):
    config, splits = tiny.model().config, DatasetDict(train=prompts(3, 60, 58, 59), validation=prompts(5))
    with caplog.at_level(logging.INFO):
        kept = without_long_prompts(splits, config, tiny.tokenizer(), max_completion_length=6)  # of 64 positions
    assert kept["train"]["target"] == [3, 58]
    assert kept["validation"]["target"] == [5]
    assert "train: 2 of 4 prompts dropped: longer than 58 tokens" in caplog.text


def test_no_prompt_with_room_is_a_users_error():
    splits = DatasetDict(train=prompts(63, 64))
    with pytest.raises(UserError, match="no prompt of the train split"):
        without_long_prompts(splits, tiny.model().config, tiny.tokenizer(), max_completion_length=6)


def test_rows_longer_than_the_models_context_are_refused():
    require_context(tiny.model(), 64)
    for length in (65, None):
        with pytest.raises(UserError, match="beyond the model's context"):
            require_context(tiny.model(), length)
