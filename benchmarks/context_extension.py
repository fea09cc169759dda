"""Does RoPE scaling let a model read further than it was trained to?

A small GPT is trained on windows of 128 bytes of tinyworld text, then reads windows of 512 with its positions scaled in
each of the known ways, without any further training. The table shows bits per byte on held-out text, by how far into
the window a byte stands. YaRN (Peng et al. 2023) should keep the far bytes near what the near ones cost.

    python benchmarks/context_extension.py [--quick]

Seed 0, two cores of an Intel Xeon, 2026-11-22, 4 minutes:

    scaling          0-128    128-256    256-384    384-512
    as trained      0.569      3.024      6.118      6.992
    linear          6.335      6.800      6.791      6.826
    dynamic         0.976      1.014      1.140      1.680
    yarn            1.106      1.239      1.343      1.332
"""

import argparse
import json
import math
import time

import torch

from alignment.data.tinyworld import WorldConfig, load
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.pipeline.records.environment import hardware

TRAINED, READ = 128, 512
FACTOR = READ / TRAINED
SCALINGS = {
    "as trained": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": FACTOR},
    "dynamic": {"rope_type": "dynamic", "factor": FACTOR},
    "yarn": {"rope_type": "yarn", "factor": FACTOR, "original_max_position_embeddings": TRAINED},
}


def text_bytes(split: str, documents: int) -> torch.Tensor:
    """tinyworld documents as one stream of bytes."""
    rows = load("pretrain", split, WorldConfig(documents=documents))
    return torch.tensor(list("\n\n".join(rows["text"]).encode()))


def config(rope: dict, positions: int) -> GPTConfig:
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}
    rope = {"rope_theta": 10000.0, **rope}
    return GPTConfig(vocab_size=256, max_position_embeddings=positions, rope_parameters=rope, **sizes)


def train(stream: torch.Tensor, steps: int, seed: int) -> GPTForCausalLM:
    torch.manual_seed(seed)
    model = GPTForCausalLM(config(SCALINGS["as trained"], TRAINED))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        starts = torch.randint(len(stream) - TRAINED, (32,))
        ids = torch.stack([stream[start : start + TRAINED] for start in starts])
        loss = model(ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def bits_by_quarter(model: GPTForCausalLM, rope: dict, windows: torch.Tensor) -> list[float]:
    """Mean bits per byte in each quarter of the windows (count, READ)."""
    # Dynamic scaling sets in where a sequence outgrows max_position_embeddings; the others are told where.
    positions = TRAINED if rope["rope_type"] == "dynamic" else READ
    scaled = GPTForCausalLM(config(rope, positions)).eval()
    scaled.load_state_dict(model.state_dict())
    bits = []
    for batch in windows.split(8):
        log_probs = scaled(batch, use_cache=False).logits[:, :-1].log_softmax(-1)
        bits.append(-log_probs.gather(-1, batch[:, 1:, None])[..., 0] / math.log(2))
    bits = torch.cat(bits)
    return [quarter.mean().item() for quarter in bits.split(TRAINED, dim=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    args = parser.parse_args()
    steps, count = (3, 2) if args.quick else (args.steps, 64)
    started = time.perf_counter()
    model = train(text_bytes("train", 200 if args.quick else 8000), steps, args.seed)
    held_out = text_bytes("test", 1)
    windows = held_out[: count * READ].view(-1, READ)
    table = {name: bits_by_quarter(model, rope, windows) for name, rope in SCALINGS.items()}
    print(
        f"trained {steps} steps on windows of {TRAINED} bytes (seed {args.seed}); "
        f"bits per byte, by place in windows of {READ}"
    )
    print("scaling     " + "".join(f"{TRAINED * i:>6}-{TRAINED * (i + 1):<4}" for i in range(4)))
    for name, bits in table.items():
        print(f"{name:12}" + "".join(f"{value:>9.3f}  " for value in bits))
    figures = {name: {"near": bits[0], "far": sum(bits[1:]) / 3} for name, bits in table.items()}
    lost = {name: figure["far"] - figures["as trained"]["near"] for name, figure in figures.items()}
    targets = {"yarn loses at most half of what no scaling loses, in bits per byte beyond 128": lost["as trained"] / 2}
    result = {"figures": figures, "targets": targets, "met": lost["yarn"] <= lost["as trained"] / 2}
    print(json.dumps(result | {"seconds": round(time.perf_counter() - started), "machine": hardware()}))


if __name__ == "__main__":
    main()
