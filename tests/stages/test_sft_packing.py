"""SFT with TRL's packing: the same loss and gradients as with padding, on the replies alone."""

import json

import gpt_tiny
import pytest
import torch
from packed_equality import gradients, largest_difference

from alignment.data.arguments import DataArguments
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.stages.sft import SFTRecipe, make_trainer
from alignment.stages.shared.lora import ModelArguments
from alignment.tokenization import train_tokenizer

WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "saw", "a", "bird", "by", "the", "old", "mill"]


def conversation(number: int) -> list[dict[str, str]]:
    """One to three turns, each of another length."""
    turns = []
    for turn in range(1 + number % 3):
        turns.append({"role": "user", "content": " ".join(WORDS[turn : turn + 2 + number])})
        turns.append({"role": "assistant", "content": " ".join(WORDS[number : number + 3 + turn]) + f" {number}"})
    return turns


CONVERSATIONS = [conversation(number) for number in range(9)]


@pytest.fixture(params=["sdpa", "eager"])
def recipe(request, tmp_path):
    """The trainer of the sft stage, in float64, and all its conversations in one batch."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, vocab_size=300, model_max_length=128)
    shape = {**gpt_tiny.MODERN, "vocab_size": len(tokenizer), "max_position_embeddings": 128, "pad_token_id": 1}
    GPTForCausalLM(GPTConfig(**shape)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = "\n".join(json.dumps({"messages": messages}) for messages in CONVERSATIONS)
    (tmp_path / "train.jsonl").write_text(lines + "\n")

    def trained(packing: bool):
        args = SFTRecipe(
            str(tmp_path / "out"),
            max_length=128,
            packing=packing,
            per_device_train_batch_size=len(CONVERSATIONS),
            bf16=False,
            use_cpu=True,
            report_to="none",
        )
        data = DataArguments(str(tmp_path / "train.jsonl"), eval_share=0)
        trainer, *_ = make_trainer(args, data, ModelArguments(model_name_or_path=str(tmp_path / "model")), tmp_path)
        trainer.model.set_attn_implementation(request.param)
        trainer.model.double()
        (batch,) = trainer.get_train_dataloader()
        return trainer, batch

    return trained


def test_packed_conversations_train_as_padded_ones_do(recipe):
    padding, padded = recipe(packing=False)
    packing, packed = recipe(packing=True)
    assert len(padding.train_dataset) == len(CONVERSATIONS) > len(packing.train_dataset) > 1
    assert "attention_mask" in padded and "position_ids" in packed and "attention_mask" not in packed
    expected = padding.compute_loss(padding.model, dict(padded))
    found = packing.compute_loss(packing.model, dict(packed))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    expected = gradients(padding.model, expected)
    assert largest_difference(gradients(packing.model, found), expected) < 1e-6

    borderless = {"input_ids": packed["input_ids"], "labels": packed["labels"]}
    mixed = packing.model(**borderless, use_cache=False).loss
    assert largest_difference(gradients(packing.model, mixed), expected) > 1e-3  # without the borders it would show


def test_packing_learns_the_replies_and_their_ends_alone(recipe):
    trainer, batch = recipe(packing=True)
    tokenizer, labels = trainer.processing_class, batch["labels"][0]
    learned = tokenizer.decode(labels[labels != -100]).split("<|end|>")
    said = [turn["content"] for messages in CONVERSATIONS for turn in messages if turn["role"] == "assistant"]
    assert sorted(reply.strip() for reply in learned) == sorted([*said, ""])


def test_a_model_with_experts_trained_without_balance_loss_can_be_saved(tmp_path):
    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, vocab_size=300, model_max_length=128)
    GPTForCausalLM(GPTConfig(**{**gpt_tiny.EXPERTS, "vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": CONVERSATIONS[0]}) + "\n")
    keys = {"router_aux_loss_coef": 0.0, "bf16": False, "use_cpu": True, "report_to": "none", "max_length": 64}
    data = DataArguments(str(tmp_path / "train.jsonl"), eval_share=0)
    model = ModelArguments(model_name_or_path=str(tmp_path / "model"))
    trainer, *_ = make_trainer(SFTRecipe(str(tmp_path / "out"), **keys), data, model, tmp_path)
    trainer.save_model(str(tmp_path / "saved"))
    saved = GPTConfig.from_pretrained(tmp_path / "saved")
    assert (saved.router_aux_loss_coef, saved.router_z_loss_coef) == (0.0, 0.0)
