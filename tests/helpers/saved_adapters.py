"""Adapters saved as the stages save them, without a stage."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from alignment.durable.manifest import sha256
from alignment.models.chain import Chain, Link, weights_digest
from alignment.models.vocabulary import make_room


def save_adapter(
    base: Path, tokenizer, folder: Path, earlier: dict | None = None, grown_to: int | None = None, **settings
):
    """Save an adapter of a base with the given settings of PEFT's, over one with others, and with embeddings grown."""
    names = [] if earlier is None else ["earlier_1"]
    for name in names:
        _save(base, folder / name, LoraConfig(target_modules=["q_proj"], **earlier))
    model = _save(base, folder, LoraConfig(target_modules=["q_proj", "v_proj", "up_proj"], r=4, **settings), grown_to)
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if names or grown_to:
        links = [Link(name, ["sft"], sha256(folder / name / "adapter_model.safetensors")) for name in [*names, "."]]
        Chain(str(base), weights_digest(base), links, grown_to=grown_to).write(folder)


def _save(base: Path, folder: Path, config: LoraConfig, grown_to: int | None = None):
    model = AutoModelForCausalLM.from_pretrained(base)
    make_room(model, grown_to or 0)
    model = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(folder, save_embedding_layers=False)
    return model
