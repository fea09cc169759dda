"""What the self-check costs: its seconds against those of an optimizer step, for every stage.

Each stage runs twice on random weights of a preset for a few steps, on generated data, in this process. A step is the
median over all but the first; of PPO and GRPO a rollout with its optimizer step. The self-check has two figures: cold,
which includes what the first passes of a process pay (on a GPU seconds, for libraries and kernels) and the first step
then does not, and warm. Target: warm at most two steps.

    python benchmarks/self_check_cost.py [--preset modern-tiny] [--steps 6] [--batch 16] [--quick]

Measured on 2026-11-29, seed 0, modern-tiny, warm, in steps. One NVIDIA H200 (torch 2.11): pretrain 0.8, sft 0.9,
reward 0.3, dpo 0.6, ppo 1.0, grpo 1.2 (cold 0.3 to 3.6 s). One thread of an Intel Xeon, other work beside it, before
there were two figures: pretrain 0.4, sft 0.1, reward 0.2, dpo 0.1, ppo 0.6, grpo 0.2.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml

from alignment.models.gpt import GPTConfig, GPTForCausalLM, GPTForSequenceClassification
from alignment.pipeline.graph import load_stage
from alignment.pipeline.records.environment import hardware
from alignment.pipeline.runner import run_pipeline
from alignment.tokenization.train import train_tokenizer

DATA = {
    "pretrain": "tinyworld:pretrain?documents=400",
    "sft": "tinyworld:sft?demonstrations=400",
    "reward": "tinyworld:preference?pairs=400",
    "dpo": "tinyworld:preference?pairs=400",
    "ppo": "tinyworld:prompts?prompts=400",
    "grpo": "tinyworld:prompts?prompts=400",
}
OWN = {
    **{stage: {"max_length": 256} for stage in ("pretrain", "sft", "reward", "dpo")},
    "ppo": {"max_completion_length": 48, "num_iterations": 1, "per_device_eval_batch_size": 64},
    "grpo": {"max_completion_length": 48, "num_generations": 4, "beta": 0.1},
}


def make_parents(folder: Path, preset: str) -> None:
    """A base model and a reward model of random weights, with a tokenizer trained on a few texts."""
    tokenizer = train_tokenizer(["The miller saw a grey bird by the old mill."] * 50, 1024, 256, sample=True)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = ids | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    shape["max_position_embeddings"] = 256
    torch.manual_seed(0)
    for name, cls, labels in (("base", GPTForCausalLM, {}), ("judge", GPTForSequenceClassification, {"num_labels": 1})):
        cls(GPTConfig.from_preset(preset, **shape, **labels)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def measure(stage: str, folder: Path, steps: int, batch: int) -> dict[str, float]:
    """Seconds of the self-check, cold and warm, and of a step."""
    keys = {
        "model_name_or_path": str(folder / "base"),
        "dataset_name": DATA[stage],
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "logging_steps": 1,
        "eval_share": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **OWN.get(stage, {}),
    }
    if stage in ("ppo", "grpo"):
        keys["reward_model_path"] = str(folder / "judge")
    recipe = folder / f"{stage}.yaml"
    recipe.write_text(yaml.safe_dump(keys), encoding="utf-8")
    checks, taken = [], []
    for name in ("cold", "warm"):
        place = folder / name / stage
        run_pipeline(load_stage(stage, recipe, [], place))
        checks.append(json.loads((place / "stage.json").read_text())["self_check"]["seconds"])
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        times = [line["seconds"] for line in lines if "loss" in line]
        taken += [later - earlier for earlier, later in itertools.pairwise(times)]
    step = statistics.median(taken)
    return {"cold": checks[0], "warm": checks[1], "step": step, "steps": checks[1] / step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="modern-tiny")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--stages", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--quick", action="store_true", help="two stages, three steps")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.stages = 3, ["sft", "ppo"]
    figures = {}
    with TemporaryDirectory() as place:
        make_parents(Path(place), args.preset)
        for stage in args.stages:
            figures[stage] = measure(stage, Path(place), args.steps, args.batch)
    print(f"\n{'stage':10}{'cold, s':>10}{'warm, s':>10}{'a step, s':>12}{'warm, steps':>14}")
    for stage, row in figures.items():
        print(f"{stage:10}{row['cold']:10.2f}{row['warm']:10.2f}{row['step']:12.2f}{row['steps']:14.1f}")
    most = max(row["steps"] for row in figures.values())
    result = {"figures": figures, "targets": {"steps": 2.0}, "met": most <= 2.0, "machine": hardware()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
