"""Experts on real text: the balance loss spreads the load, and without it the load does not stay spread."""

import pytest
import torch

from alignment.data.tinyworld import WorldConfig, load
from alignment.models.gpt import GPTConfig, GPTForCausalLM

EXPERTS, TOP_K, LENGTH = 8, 2, 64


@pytest.fixture(scope="module")
def stream() -> torch.Tensor:
    rows = load("pretrain", "train", WorldConfig(documents=1500))["text"]
    return torch.tensor(list("\n\n".join(rows).encode()))


def windows(stream: torch.Tensor, count: int) -> torch.Tensor:
    starts = torch.randint(len(stream) - LENGTH, (count,))
    return torch.stack([stream[start : start + LENGTH] for start in starts])


def loads_after_training(stream: torch.Tensor, coefficient: float) -> torch.Tensor:
    """Each expert's share of the tokens over the mean share, (layers, experts)."""
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
    for _ in range(150):
        ids = windows(stream, 16)
        loss = model(ids, labels=ids, use_cache=False, output_router_logits=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model(windows(stream, 64), output_router_logits=True).router_logits
    counts = [layer.topk(TOP_K).indices.flatten().bincount(minlength=EXPERTS).float() for layer in logits]
    return torch.stack([count / count.mean() for count in counts])


@pytest.mark.xfail(reason="open: 3.4 times the mean load after these 150 steps at the default coefficient (2026-11-22)")
def test_the_balance_loss_keeps_every_expert_within_twice_the_mean_load(stream):
    balanced = loads_after_training(stream, 0.01)
    assert balanced.max() <= 2
    assert balanced.min() >= 0.5
    assert loads_after_training(stream, 0.0).max() > balanced.max()
