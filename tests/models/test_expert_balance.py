"""Experts on tinyworld text: the balance loss keeps the load spread."""

import pytest
import torch

from alignment.data.tinyworld import WorldConfig, load
from alignment.models.gpt import GPTConfig, GPTForCausalLM

EXPERTS, TOP_K, LENGTH = 8, 2, 64
STEPS, WARMUP = 450, 40


def stream(split: str) -> torch.Tensor:
    rows = load("pretrain", split, WorldConfig(documents=1500))["text"]
    return torch.tensor(list("\n\n".join(rows).encode()))


def windows(stream: torch.Tensor, count: int) -> torch.Tensor:
    starts = torch.randint(len(stream) - LENGTH, (count,))
    return torch.stack([stream[start : start + LENGTH] for start in starts])


def loads_after_training(coefficient: float) -> torch.Tensor:
    """Each expert's share of held-out tokens over the mean share, (layers, experts)."""
    torch.manual_seed(0)
    config = GPTConfig.from_preset(
        "moe-tiny",
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        moe_intermediate_size=32,
        router_aux_loss_coef=coefficient,
        router_z_loss_coef=0.0,
    )
    model = GPTForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / WARMUP))
    text = stream("train")
    for _ in range(STEPS):
        ids = windows(text, 16)
        loss = model(ids, labels=ids, use_cache=False, output_router_logits=True).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        logits = model(windows(stream("validation"), 64), output_router_logits=True).router_logits
    counts = [layer.topk(TOP_K).indices.flatten().bincount(minlength=EXPERTS).float() for layer in logits]
    return torch.stack([count / count.mean() for count in counts])


@pytest.mark.slow
def test_the_balance_loss_keeps_every_expert_within_twice_the_mean_load():
    balanced = loads_after_training(GPTConfig.router_aux_loss_coef)
    assert balanced.max() <= 2
    assert loads_after_training(0.0).max() > 2
