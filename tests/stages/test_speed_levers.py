"""What makes SFT, reward and DPO faster: bf16 with attention in 32 bit on a CPU, which learns the same, and batches of
pairs of like lengths."""

import json

import gpt_tiny
import pytest
import torch
from transformers import TrainerCallback

from alignment.data.arguments import DataArguments
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.stages import dpo, reward, sft
from alignment.stages.shared.lora import ModelArguments
from alignment.tokenization import train_tokenizer

WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "saw", "a", "bird", "by", "the", "old", "mill"]
KEYS = {"max_steps": 3, "per_device_train_batch_size": 4, "max_length": 64, "use_cpu": True, "report_to": "none"}
KEYS |= {"save_strategy": "no", "eval_strategy": "no", "logging_steps": 1, "disable_tqdm": True}
STAGES = {
    "sft": (sft, sft.SFTRecipe, DataArguments),
    "reward": (reward, reward.RewardRecipe, reward.RewardArguments),
    "dpo": (dpo, dpo.DPORecipe, DataArguments),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, conversations and preference pairs."""
    place = tmp_path_factory.mktemp("levers")
    torch.manual_seed(0)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, vocab_size=300, model_max_length=64)
    shape = {**gpt_tiny.MODERN, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    GPTForCausalLM(GPTConfig(**shape)).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    asked = [[{"role": "user", "content": " ".join(WORDS[row : row + 4])}] for row in range(9)]
    said = [[{"role": "assistant", "content": " ".join(WORDS[: 2 + row])}] for row in range(9)]
    pairs = [{"prompt": one, "chosen": said[row], "rejected": said[row - 1]} for row, one in enumerate(asked)]
    chats = [{"messages": one + said[row]} for row, one in enumerate(asked)]
    for name, rows in (("pairs", pairs), ("chats", chats)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_follows_float32(stage, folder, tmp_path):
    module, recipe, data = STAGES[stage]
    rows = folder / ("chats.jsonl" if stage == "sft" else "pairs.jsonl")

    def losses(bf16: bool) -> list[float]:
        args = recipe(output_dir=str(tmp_path / str(bf16)), bf16=bf16, **KEYS)
        module.run(
            args, data(str(rows), eval_share=0), ModelArguments(model_name_or_path=str(folder / "model")), [watch]
        )
        lines = (tmp_path / str(bf16) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]

    watch = gpt_tiny.AttentionWatch()
    plain, half = losses(False), losses(True)
    assert watch.seen == ["sdpa", "sdpa_float32"]
    assert half == pytest.approx(plain, rel=0.02) and len(plain) == 3


class Paddings(TrainerCallback):
    """Padding tokens of each batch of an epoch."""

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.of_batches = [int((batch["attention_mask"] == 0).sum()) for batch in train_dataloader]


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_pairs_of_like_lengths_share_a_batch(stage, folder, tmp_path):
    """Replies of two lengths, in turns: grouped, most batches have one of them, and padding halves."""
    module, recipe, data = STAGES[stage]
    said = {"short": ("cat", "sat"), "long": (" ".join(WORDS), " ".join(WORDS[:-1]))}
    rows = []
    for row in range(80):
        chosen, rejected = said["short" if row % 2 else "long"]
        question, *replies = [{"role": "user", "content": chr(33 + row)}], chosen, rejected
        sides = [[{"role": "assistant", "content": reply}] for reply in replies]
        rows.append({"prompt": question, "chosen": sides[0], "rejected": sides[1]})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def paddings(strategy: str) -> list[int]:
        args = recipe(output_dir=str(tmp_path / strategy), train_sampling_strategy=strategy, **KEYS | {"max_steps": 1})
        model = ModelArguments(model_name_or_path=str(folder / "model"))
        module.run(args, data(str(tmp_path / "pairs.jsonl"), eval_share=0.25), model, [watch := Paddings()])
        return watch.of_batches

    assert sum(paddings("group_by_length")) < 0.5 * sum(paddings("random"))
