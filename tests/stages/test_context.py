"""What the stages do with prompts and rows that do not fit the model's context."""

import json
import logging

import ppo_tiny as tiny
import pytest
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model

from alignment.errors import UserError
from alignment.stages import dpo, reward, sft
from alignment.stages.ppo import without_long_prompts
from alignment.stages.shared.lora import ModelArguments


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


@pytest.mark.parametrize("stage", [sft, reward, dpo])
def test_rows_longer_than_the_models_context_are_refused_before_anything_runs(stage, tmp_path):
    model = tiny.model()
    model.save_pretrained(tmp_path / "model")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for turn in messages %}{% generation %}{{ turn['content'] }}{% endgeneration %}{% endfor %}"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    adapter = tmp_path / "adapter/adapter_config.json"
    adapter.write_text(json.dumps(json.loads(adapter.read_text()) | {"base_model_name_or_path": f"{tmp_path}/model"}))
    for name in ("model", "adapter"):
        model_args = ModelArguments(model_name_or_path=str(tmp_path / name))
        recipe = {"output_dir": str(tmp_path / "out"), "bf16": False, "use_cpu": True}
        stage.check(stage.CONFIGS[0](**recipe, max_length=64), None, model_args)
        for length in (65, None):
            with pytest.raises(UserError, match="beyond the model's context"):
                stage.check(stage.CONFIGS[0](**recipe, max_length=length), None, model_args)
    assert not (tmp_path / "out").exists()
