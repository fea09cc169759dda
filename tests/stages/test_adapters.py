"""Adapters that go on from stage to stage: what the next one is measured against, and what is written."""

import ppo_tiny as tiny
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from trl import DPOConfig, DPOTrainer

from alignment.models.loading import load_trainable
from alignment.stages.shared.lora import complete_reference, expose_head_bias
from alignment.stages.shared.saving import save_checkpoint


@pytest.fixture
def sft_policy() -> PeftModel:
    """An adapter that has learned, in LoRA's matrices and in the embeddings of two tokens."""
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=[tiny.TURN, 5])
    model = get_peft_model(tiny.model(tie_word_embeddings=True), config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            parameter.data.normal_(std=0.3)
    return model


@pytest.fixture
def dpo(sft_policy, tmp_path) -> DPOTrainer:
    rows = Dataset.from_list([{"prompt": "w1 w2", "chosen": " w3 w4", "rejected": " w5"}] * 4)
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none"}
    args = DPOConfig(
        str(tmp_path / "trainer"), use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no", **options
    )
    trainer = DPOTrainer(sft_policy, args=args, train_dataset=rows, processing_class=tiny.tokenizer())
    expose_head_bias(trainer.model)
    complete_reference(trainer.model)
    return trainer


def test_dpo_starts_at_its_reference(dpo):
    dpo.train()
    first = dpo.state.log_history[0]
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert first["rewards/rejected"] == pytest.approx(0, abs=1e-5)


def test_the_reference_is_not_part_of_the_checkpoint(dpo, tmp_path):
    save_checkpoint(dpo.model, tiny.tokenizer(), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint/adapter_model.safetensors").is_file()
    assert not (tmp_path / "checkpoint/ref").exists()
    loaded = PeftModel.from_pretrained(tiny.model(tie_word_embeddings=True), tmp_path / "checkpoint").eval()
    ids = torch.tensor([[5, 6, tiny.TURN, 7]])
    torch.testing.assert_close(loaded(ids).logits, dpo.model.eval()(ids).logits)


def test_an_adapter_trained_after_its_run_was_moved_names_the_base_where_it_is(sft_policy, tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    tiny.model(tie_word_embeddings=True).save_pretrained("run/base/checkpoint")
    sft_policy.peft_config["default"].base_model_name_or_path = "run/base/checkpoint"
    sft_policy.save_pretrained("run/sft/checkpoint")
    monkeypatch.chdir(tmp_path)
    further = load_trainable("old/run/sft/checkpoint", "causal-lm")
    further.save_pretrained("elsewhere/checkpoint")
    ids = torch.tensor([[5, 6, tiny.TURN, 7]])
    again = load_trainable("elsewhere/checkpoint", "causal-lm")
    torch.testing.assert_close(again.eval()(ids).logits, sft_policy.eval()(ids).logits)
