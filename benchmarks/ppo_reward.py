"""What do reward and time buy? PPO, and TRL's GRPO and RLOO, from one SFT model on one learned reward of tinyworld.

Each method is trained on rollouts of 128 completions, four optimizer steps each, for as many steps, a fresh process a
run. After it, greedy replies to held-out prompts are scored by the gold reward, which no method has seen, and compared
with the SFT model's, item by item. PPO runs by its recipe. The rates of GRPO and RLOO were chosen of 1e-4 and 3e-4 by
the gold reward on the validation split (`--split validation --seeds 0 --methods grpo rloo --rates 1e-4 3e-4`).

    align run recipes/tiny --until reward
    python benchmarks/ppo_reward.py [--run_dir runs/tiny] [--seeds 0 1 2] [--quick]

Two cores of an Intel Xeon, a thread a run, other jobs beside it (so times are rough), 2026-11-22, of
commit 6cd9ea8; the last reward is the learned one's in training, nats are of KL to SFT a completion, length and
distinct-2 are shares of SFT's:

    run             seconds s to 1.00 s to 1.17 s to 1.33  last reward  gold over SFT           nats  length  distinct-2
    ppo 0               180        12        18        42        1.529  +0.100 [+0.072, +0.131] 0.22    0.81        1.10
    grpo 0 0.0001       259        13        28        73        1.461  +0.061 [+0.030, +0.092]         0.82        1.06
    rloo 0 0.0001       246        15        49        49        1.464  +0.102 [+0.072, +0.133]         0.80        1.08
    ppo 1               332        21        69        83        1.481  +0.095 [+0.068, +0.123] 0.24    0.82        1.10
    grpo 1 0.0001       239        40        50        57        1.536  +0.070 [+0.040, +0.101]         0.81        1.08
    rloo 1 0.0001       185         3        26        30        1.625  +0.069 [+0.039, +0.099]         0.81        1.13
    ppo 2               300         4        30        49        1.485  +0.082 [+0.054, +0.111] 0.33    0.82        1.11
    grpo 2 0.0001       353         0       108       128        1.435  +0.067 [+0.037, +0.098]         0.81        1.10
    rloo 2 0.0001       391         0       125       154        1.448  +0.090 [+0.061, +0.118]         0.81        1.09

PPO raises the gold reward in every seed; RLOO does as well, GRPO somewhat less, with as many completions.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from alignment.pipeline.records.environment import hardware

RECIPE = Path(__file__).resolve().parents[1] / "recipes/tiny/ppo.yaml"
BETA = 0.1  # the recipe's, for RLOO, whose KL is in the reward as PPO's is
RATES = {"ppo": None, "grpo": 1e-4, "rloo": 1e-4}
LEVELS = (0.25, 0.5, 0.75)  # shares of the way from the first mean reward to PPO's last


def train_ppo(args: argparse.Namespace) -> None:
    """By the recipe, as a user would run it."""
    import align

    options = {
        "model_name_or_path": f"{args.run_dir}/sft/checkpoint",
        "reward_model_path": f"{args.run_dir}/reward/checkpoint",
        "output_dir": args.output_dir,
        "max_steps": args.steps,
        "seed": args.seed,
        "logging_steps": 4,
    }
    if align.main(["ppo", str(RECIPE), *(word for key, value in options.items() for word in (f"--{key}", str(value)))]):
        raise SystemExit(1)


def train_trl(args: argparse.Namespace) -> None:
    """TRL's GRPO or RLOO on the same prompts, with rollouts of the same size."""
    import trl

    from alignment.callbacks.clock import StageClock
    from alignment.callbacks.metrics_log import MetricsWriter
    from alignment.data.arguments import DataArguments
    from alignment.data.preparing.load import load_splits

    checkpoint = f"{args.run_dir}/sft/checkpoint"
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True)
    options = {
        "output_dir": str(output_dir / "trainer"),
        "per_device_train_batch_size": 32,
        "steps_per_generation": 4,
        "num_generations": 4,
        "max_completion_length": 48,
        "max_steps": args.steps,
        "learning_rate": args.rate,
        "lr_scheduler_type": "linear",
        "logging_steps": 4,
        "seed": args.seed,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": False,
    }
    if args.method == "rloo":
        options["beta"] = BETA
    prompts = load_splits(DataArguments("tinyworld:prompts"), "prompts", args.seed)["train"].select_columns(["prompt"])
    trainer = getattr(trl, f"{args.method.upper()}Trainer")(
        model=checkpoint,
        reward_funcs=f"{args.run_dir}/reward/checkpoint",
        args=getattr(trl, f"{args.method.upper()}Config")(**options),
        train_dataset=prompts,
        callbacks=[MetricsWriter(output_dir / "metrics.jsonl", StageClock())],
    )
    trainer.train()
    trainer.save_model(str(output_dir / "checkpoint"))


def worker(args: argparse.Namespace) -> None:
    import alignment  # noqa: F401  (registers the architecture)

    (train_ppo if args.method == "ppo" else train_trl)(args)


def run(args: argparse.Namespace, method: str, rate: float | None, seed: int, folder: Path) -> Path:
    """One training in a process of its own; its output folder."""
    output_dir = folder / f"{method}-{rate}-{seed}"
    options = {"method": method, "seed": seed, "output_dir": output_dir, "steps": args.steps, "run_dir": args.run_dir}
    options |= {} if rate is None else {"rate": rate}
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    command = [sys.executable, __file__, *words]
    with (folder / f"{output_dir.name}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{Path(log.name).read_text(encoding='utf-8')[-3000:]}")
    return output_dir


def measured(args: argparse.Namespace, checkpoint: str, name: str, folder: Path) -> Path:
    """Greedy replies to the split's prompts and their gold rewards, as an eval run."""
    from eval.harness.run_suite import evaluate_many

    options = {"batch_size": 128, "seed": 0, "suite_args": {"split": args.split}, "limit": 16 if args.quick else None}
    evaluate_many(checkpoint, ["tinyworld_gold"], ["chat"], folder / "evals", stage=name, **options)
    return folder / "evals" / f"{name}-tinyworld_gold-chat"


def distinct_2(texts: list[str]) -> float:
    """The share of different ones among all pairs of neighbouring words (Li et al. 2016)."""
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / max(len(pairs), 1)


def figures(trained: Path, judged: Path, sft: Path) -> dict:
    """What a run cost and what it made of the SFT model."""
    from eval.comparison.compare import compare
    from eval.harness.store import load_run

    log = [json.loads(line) for line in (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    log = [line for line in log if "reward" in line]
    [gold] = [row for row in compare(sft, judged) if row["metric"] == "gold_reward" and row["task"] == "tinyworld_gold"]
    before, after = load_run(sft).items, load_run(judged).items
    return {
        "seconds": log[-1]["seconds"] - log[0]["seconds"],
        "curve": [(line["seconds"] - log[0]["seconds"], line["reward"]) for line in log],
        "kl": log[-1].get("kl/completion"),
        "gold": gold["value_b"],
        "gold_delta": gold["delta"],
        "gold_low": gold["ci_low"],
        "gold_high": gold["ci_high"],
        "length_ratio": after["gen_len"].mean() / before["gen_len"].mean(),
        "distinct_2_ratio": distinct_2(after["output"].tolist()) / distinct_2(before["output"].tolist()),
    }


def smoothed(curve: list[tuple[float, float]], width: int = 5) -> Iterator[tuple[float, float]]:
    """Times, and means over the last few rollouts."""
    for end in range(1, len(curve) + 1):
        window = curve[max(0, end - width) : end]
        yield window[-1][0], statistics.fmean(reward for _, reward in window)


def seconds_to(curve: list[tuple[float, float]], level: float) -> float | None:
    return next((seconds for seconds, reward in smoothed(curve) if reward >= level), None)


def show(rows: dict[tuple, dict]) -> None:
    """The table: a line a run."""
    ppo = [row for (method, _, _), row in rows.items() if method == "ppo"] or list(rows.values())
    first = statistics.fmean(row["curve"][0][1] for row in ppo)
    last = statistics.fmean(list(smoothed(row["curve"]))[-1][1] for row in ppo)
    levels = [first + share * (last - first) for share in LEVELS]
    heads = "".join(f"{f's to {level:.2f}':>10}" for level in levels)
    print(f"{'run':15}{'seconds':>8}{heads}  last reward  gold over SFT           nats  length  distinct-2")
    for (method, rate, seed), row in rows.items():
        name = f"{method} {seed}" + (f" {rate:g}" if rate else "")
        times = [seconds_to(row["curve"], level) for level in levels]
        reached = "".join(f"{'-' if time is None else f'{time:.0f}':>10}" for time in times)
        gold = f"{row['gold_delta']:+.3f} [{row['gold_low']:+.3f}, {row['gold_high']:+.3f}]"
        kl = "" if row["kl"] is None else f"{row['kl']:.2f}"
        end = list(smoothed(row["curve"]))[-1][1]
        ratios = f"{row['length_ratio']:>8.2f}{row['distinct_2_ratio']:>12.2f}"
        print(f"{name:15}{row['seconds']:>8.0f}{reached}{end:>13.3f}  {gold:23}{kl:>5}{ratios}")


def verdict(rows: dict[tuple, dict]) -> dict[str, bool]:
    ppo = [row for (method, _, _), row in rows.items() if method == "ppo"]
    return {
        "PPO raises the gold reward over SFT in every seed": all(row["gold_delta"] > 0 for row in ppo),
        "PPO stays below 15 nats a completion": all(row["kl"] < 15 for row in ppo),
        "PPO's replies are 0.5 to 2 times as long as SFT's": all(0.5 <= row["length_ratio"] <= 2 for row in ppo),
        "PPO's distinct-2 is at least 0.8 of SFT's": all(row["distinct_2_ratio"] >= 0.8 for row in ppo),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", default="runs/tiny", help="where sft/checkpoint and reward/checkpoint are")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=RATES)
    parser.add_argument("--rates", type=float, nargs="+", help="of GRPO and RLOO; default: the ones chosen")
    parser.add_argument("--split", default="test", help="the split of the gold reward")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    for name, kind in {"method": str, "seed": int, "output_dir": str, "rate": float}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)  # of a worker
    args = parser.parse_args()
    if args.method:
        worker(args)
        return
    if args.quick:
        args.steps, args.seeds = 8, [0]
    rows = {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sft = measured(args, f"{args.run_dir}/sft/checkpoint", "sft", folder)
        for seed in args.seeds:  # method after method, so that a noisy hour is shared
            for method in args.methods:
                for rate in [None] if method == "ppo" else args.rates or [RATES[method]]:
                    trained = run(args, method, rate, seed, folder)
                    judged = measured(args, str(trained / "checkpoint"), trained.name, folder)
                    rows[method, rate, seed] = figures(trained, judged, sft)
    show(rows)
    targets = verdict(rows) if "ppo" in args.methods else {}
    kept = {f"{method} {seed} {rate or ''}".strip(): row for (method, rate, seed), row in rows.items()}
    for row in kept.values():
        del row["curve"]
    print(json.dumps({"figures": kept, "targets": targets, "met": all(targets.values()), "machine": hardware()}))


if __name__ == "__main__":
    main()
