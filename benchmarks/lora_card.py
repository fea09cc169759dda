"""recipes/lora-1gpu and recipes/qlora-1gpu on one card at 8B: memory foretold and measured, and minutes.

A Llama of the shape of Llama 3 8B, of random weights in bfloat16, with a tokenizer trained on the files. Every stage
runs by its recipe for a few optimizer steps, in a process of its own, evaluated at its end alone; what they take (the
first ones aside), times the recipe's steps, is its minutes. The first batch has the longest rows, so that the peak is
the recipe's. The peak is what torch allocated; the estimate is that of `align check`, without what it gives the
framework.

    python benchmarks/lora_card.py --math train.jsonl --instructions seed_tasks.jsonl --preferences hh.jsonl \\
        [--rows lora/sft qlora/sft ...] [--folder /dev/shm/8b] [--quick]

As found, 2026-11-27, one NVIDIA H100, torch 2.11, seed 0: lora/sft 2.6 s a step of 16 conversations (steps 10 and 11,
the card 23% busy), which is 38 minutes for the recipe's 876, and 21.6 GB, 22.5 foretold. The other rows ran out of
the time that there was.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from real_model import INPUTS, small_inputs
from transformers import AutoModelForCausalLM, LlamaConfig

from alignment.check.costs import estimate_of
from alignment.check.material import Options
from alignment.check.run import inspect_stage, recipes_of
from alignment.estimate.compute import this_device
from alignment.estimate.estimate import Estimate
from alignment.pipeline.graph import load_stage
from alignment.pipeline.records.environment import hardware
from alignment.tokenization.train import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
LLAMA = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
TINY = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
TOKENS = 32_000  # in the tokenizer, of the model's vocabulary
NEEDED = {
    "sft": ("math", "instructions"),
    "reward": ("preferences",),
    "dpo": ("preferences",),
    "ppo": ("math",),
    "grpo": ("math",),
}
# Optimizer steps before those that are timed, and in all; of PPO and GRPO, whole rollouts.
STEPS = {"sft": (3, 12), "reward": (2, 8), "dpo": (2, 8), "ppo": (4, 8), "grpo": (1, 3)}
ROWS = [f"{kind}/{stage}" for stage in ("sft", "dpo", "ppo", "reward", "grpo") for kind in ("lora", "qlora")]
FEW = {"eval_strategy": "no", "save_strategy": "no", "logging_steps": 1}
LONGEST_FIRST = {"train_sampling_strategy": "group_by_length"}  # reward and DPO, whose recipes draw at random


def write_model(folder: Path, args: argparse.Namespace) -> None:
    """Random weights, and a tokenizer that cuts the files into about as many tokens as a model's own would."""
    sums = [json.loads(line) for line in args.math.open(encoding="utf-8")]
    said = [json.loads(line)["chosen"] for line in args.preferences.open(encoding="utf-8")]
    texts = [row["question"] + row["answer"] for row in sums] + said
    shape = TINY if args.quick else LLAMA
    tokenizer = train_tokenizer(texts, min(TOKENS, shape["vocab_size"]), 8192)
    tokenizer.save_pretrained(folder)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = LlamaConfig(**shape, **ids, max_position_embeddings=8192, dtype=torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()


def keys_of(row: str, args: argparse.Namespace) -> dict:
    """A row's keys on top of its recipe: the files, the model or the SFT adapter."""
    kind, stage = row.split("/")
    keys = FEW | {name: getattr(args, name) for name in NEEDED[stage]}
    keys |= LONGEST_FIRST if stage in ("reward", "dpo") else {}
    keys["model_name_or_path"] = args.folder / ("model" if stage == "sft" else f"{kind}/sft/checkpoint")
    return keys


def words_of(keys: dict) -> list[str]:
    return [str(word) for key, value in keys.items() for word in (f"--{key}", value)]


def train(row: str, args: argparse.Namespace) -> dict:
    """Run a stage for its few steps; seconds a step and GB at the peak."""
    kind, stage = row.split("/")
    first, last = STEPS[stage]
    folder = args.folder / kind / stage
    keys = keys_of(row, args) | {"max_steps": last, "output_dir": folder, "seed": 0}
    recipe = ROOT / f"recipes/{kind}-1gpu/{stage}.yaml"
    command = [sys.executable, ROOT / "align.py", stage, recipe, "--no-check", *words_of(keys)]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{row} failed:\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    at = {line["step"]: line["seconds"] for line in reversed(lines)}  # a step's first line: the last one has a summary
    peak = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["peak_memory_gb"]
    return {"step_seconds": (at[last] - at[first]) / (last - first), "peak_memory_gb": peak}


def foretold(row: str, args: argparse.Namespace) -> Estimate:
    """What `align check` says of the whole recipe."""
    kind, stage = row.split("/")
    recipe = ROOT / f"recipes/{kind}-1gpu/{stage}.yaml"
    place = args.folder / "check" / kind / stage
    pipeline = load_stage(stage, recipe, words_of(keys_of(row, args)), str(place))
    (spec,) = pipeline.stages
    material, _ = inspect_stage(spec, pipeline.run_dir, recipes_of(pipeline), {}, Options())
    return estimate_of(material, this_device(measure=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = ("math", "instructions", "preferences")
    for name in files:
        parser.add_argument(f"--{name}", type=Path, help=INPUTS[name])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, help="in this order; all need their sft")
    parser.add_argument("--folder", type=Path, help="for 17 GB of weights and what is made of them")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a tiny model: the figures mean nothing")
    args = parser.parse_args()
    with TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        if args.quick:
            vars(args).update(small_inputs(args.folder) | {"rows": ["lora/sft"]})
        elif missing := [name for name in files if getattr(args, name) is None]:
            raise SystemExit(f"needed: {', '.join(f'--{name}' for name in missing)} (or --quick)")
        if not (args.folder / "model/config.json").exists():
            write_model(args.folder / "model", args)
        print(f"{'':12}{'GB foretold':>12}{'measured':>10}{'off':>6}{'s a step':>10}{'steps':>7}{'minutes':>9}")
        figures = {row: compared(row, args) for row in args.rows}
    print(json.dumps({"figures": figures, "targets": {}, "met": True, "machine": hardware()}))


def compared(row: str, args: argparse.Namespace) -> dict:
    with ThreadPoolExecutor(1) as beside:  # the stage's own process leaves this one nothing to do
        said = beside.submit(foretold, row, args)
        found = train(row, args)
        said = said.result()
    memory = (said.total_memory - said.memory["framework"] * torch.cuda.is_available()) / 1e9
    minutes, off = found["step_seconds"] * said.steps / 60, memory / found["peak_memory_gb"] - 1
    print(f"{row:12}{memory:>12.1f}{found['peak_memory_gb']:>10.1f}{off:>+6.0%}", end="")
    print(f"{found['step_seconds']:>10.2f}{said.steps:>7}{minutes:>9.1f}", flush=True)
    parts = {name: round(size / 1e9, 3) for name, size in said.memory.items()}
    return found | {"foretold_gb": memory, "parts": parts, "steps": said.steps, "minutes": minutes}


if __name__ == "__main__":
    main()
