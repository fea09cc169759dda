"""Does an ensemble's uncertainty-penalised reward delay over-optimisation? PPO on tinyworld, against one and four.

From one SFT model: reward models on the same pairs, each with another score head at first and another order of the
pairs; then PPO with a low beta for many steps, against one of them and against all of them (mean less k deviations,
each member's mean over preference pairs set to 0). Both start with a critic that says 0 and with the first rollout's
mean taken off. The gold reward has weight 0: it is only logged. Each rollout of 128 completions gives a proxy and a
gold mean; curves are means over the last five rollouts, and the proxy's peak is where its curve is highest.

    align run recipes/tiny --until sft
    python benchmarks/ensemble_overoptimisation.py [--run_dir runs/tiny] [--seeds 0 1 2] [--quick]

In the JSON a mean is [value, standard error].
Intervals are 95%: of a run, from its 640 completions at the place; over seeds, Student's t of their differences.

As found, 2026-11-26, commit a035144, 16 cores of an Intel Xeon, two threads a run, six runs at a time, SFT and members
trained with one thread: of 400 steps asked for, the machine's time ended after 67 to 80 rollouts; the first 67 of each
run, and no standard errors within a run. The rate is constant, so that they are the rollouts of `--steps 268`.

    gold reward                 at the start  rollouts 21-30  41-50  63-67   proxy, start and end
    single 0                            0.61            0.30   0.16   0.14           1.51   2.58
    ensemble 0                          0.61            0.32   0.26   0.19           0.98   1.90
    single 1                            0.60            0.33   0.23   0.05           0.75   2.41
    ensemble 1                          0.61            0.45   0.24   0.17           0.82   1.98
    single 2                            0.58            0.43   0.25   0.16           1.14   2.06
    ensemble 2                          0.59            0.47   0.18  -0.02           0.83   2.10

Both proxies still rose when the runs ended, at their peak or next to it, and the gold reward fell from the tenth
rollout on: over-optimisation is plain in all six. Ensemble less single at the peak of the proxy: +0.047, +0.123 and
-0.226, over seeds -0.019 [-0.475, +0.437]; at the end +0.047, +0.123 and -0.182, over seeds -0.004 [-0.399, +0.390].
The gold reward had fallen by 0.1 after 22, 22 and 28 rollouts with the ensemble, and after 20, 19 and 20 with a single
model. So: a delay of a few rollouts in each of three seeds, and no sign that it ends anywhere else.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from scipy import stats

from alignment.pipeline.records.environment import hardware

RECIPES = Path(__file__).resolve().parents[1] / "recipes/tiny"
ALIGN = Path(__file__).resolve().parents[1] / "align.py"
GOLD = "reward_models.tinyworld:gold_reward"
WINDOW = 5  # rollouts of a mean
PLACES = ("peak", "end")  # of the proxy, of the run
ARMS = ("single", "ensemble")


class Curves(NamedTuple):
    """A run by rollout: (rollouts, completions) rewards, and (rollouts,) KL to SFT in nats a completion."""

    proxy: np.ndarray
    gold: np.ndarray
    kl: np.ndarray


class Mean(NamedTuple):
    value: float
    se: float

    @property
    def shown(self) -> str:
        return interval(self.value, 1.96 * self.se)


def align(args: argparse.Namespace, log: Path, verb: str, recipe: str, **options: object) -> None:
    """A stage by its recipe, as a user would run it, in a process of its own."""
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, str(ALIGN), verb, str(RECIPES / recipe), "--no-check", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command + ["--quick"] * args.quick, stdout=file, stderr=file, env=environment)
    if done.returncode:
        raise SystemExit(f"align {verb} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")


def train_members(args: argparse.Namespace, folder: Path) -> list[str]:
    """Reward models that differ by their seed alone; their checkpoints. Those that are there are kept."""

    def train(seed: int) -> str:
        place = folder / f"member{seed}" / "reward"  # in a run directory of its own: one is one process's
        options = {"model_name_or_path": f"{args.run_dir}/sft/checkpoint", "output_dir": place, "seed": seed}
        if not (place / "stage.json").exists():
            align(args, folder / f"member{seed}.log", "reward", "reward.yaml", **options)
        return f"{place}/checkpoint"

    with ThreadPoolExecutor(args.jobs) as pool:
        return list(pool.map(train, range(args.members)))


def proxy_of(args: argparse.Namespace, arm: str, members: list[str], seed: int) -> str:
    if arm == "single":
        return f"reward_models.learned:reward?checkpoint={members[seed % len(members)]}"
    options = f"aggregate=mean-std&k={args.k}&reference=tinyworld:preference"
    return f"reward_models.ensembles:ensemble?members={','.join(members)}&{options}"


def train_policy(args: argparse.Namespace, arm: str, members: list[str], seed: int, folder: Path) -> Curves:
    output_dir = folder / f"{arm}-{seed}" / "ppo"
    options = {
        "model_name_or_path": f"{args.run_dir}/sft/checkpoint",
        "output_dir": output_dir,
        "seed": seed,
        "reward_model_path": "null",
        "reward_funcs": json.dumps([proxy_of(args, arm, members, seed), GOLD]),
        "reward_weights": "[1.0, 0.0]",
        "reward_normalization": "true",
        "beta": args.beta,
        "learning_rate": args.rate,
        "lr_scheduler_type": "constant",
        "max_steps": args.steps,
        "logging_steps": 1 if args.quick else 4,
        "log_completions": "true",
        "num_completions_to_print": 0,
    }
    if not (output_dir / "stage.json").exists():
        align(args, folder / f"{arm}-{seed}.log", "ppo", "ppo.yaml", **options)
    return read_curves(output_dir)


def read_curves(output_dir: Path) -> Curves:
    """What each rollout of a run was rewarded with."""
    rollouts: dict[int, list[tuple[float, float]]] = {}
    with (output_dir / "trainer/completions.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            gold = row["rewards"].pop("gold_reward")
            [proxy] = row["rewards"].values()
            rollouts.setdefault(row["step"], []).append((proxy, gold))
    rewards = np.array([rollouts[step] for step in sorted(rollouts)])
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kl = np.array([line["kl/completion"] for line in lines if "kl/completion" in line])
    return Curves(rewards[..., 0], rewards[..., 1], kl)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Means over the last few rollouts, from the first whole window on (of fewer rollouts, over all). -> (windows,)"""
    width = min(WINDOW, len(values))
    return np.convolve(values, np.ones(width) / width, mode="valid")


def mean_at(rewards: np.ndarray, window: int) -> Mean:
    inside = rewards[window : window + min(WINDOW, len(rewards))]
    return Mean(float(inside.mean()), float(inside.std(ddof=1) / math.sqrt(inside.size)))


def measured(curves: Curves) -> dict:
    """Proxy and gold at the proxy's peak and at the end, and the best that gold ever was."""
    proxy, gold, kl = (smoothed(values) for values in (curves.proxy.mean(1), curves.gold.mean(1), curves.kl))
    windows = {"peak": int(proxy.argmax()), "end": len(proxy) - 1, "best": int(gold.argmax())}
    found = {"rollouts": len(curves.proxy), "gold_start": mean_at(curves.gold, 0)}
    for place, window in windows.items():
        found |= {f"gold_{place}": mean_at(curves.gold, window), f"proxy_{place}": mean_at(curves.proxy, window)}
        found[f"rollout_{place}"] = window + min(WINDOW, len(curves.proxy))
        found[f"kl_{place}"] = float(kl[min(window, len(kl) - 1)])
    return found


def interval(value: float, half: float) -> str:
    return f"{value:+.3f} [{value - half:+.3f}, {value + half:+.3f}]"


def differences(runs: dict[tuple[str, int], dict], seeds: list[int], place: str) -> dict:
    """Gold of the ensemble less that of the single model: of each seed, and over seeds."""
    of_seeds = {}
    for seed in seeds:
        single, several = (runs[arm, seed][f"gold_{place}"] for arm in ARMS)
        of_seeds[seed] = Mean(several.value - single.value, math.hypot(several.se, single.se))
    values = np.array([one.value for one in of_seeds.values()])
    found = {"seeds": of_seeds, "mean": float(values.mean()), "half_width": None}
    if len(values) > 1:
        error = values.std(ddof=1) / math.sqrt(len(values))
        found["half_width"] = float(stats.t.ppf(0.975, len(values) - 1) * error)
    return found


def show(runs: dict[tuple[str, int], dict], gains: dict[str, dict]) -> None:
    heads = f"{'gold at the start':26}{'gold at the peak of the proxy':34}{'gold at the end':32}"
    print(f"{'run':12}{heads}{'best gold':16}nats at peak, end")
    for (arm, seed), row in runs.items():
        peak = f"{row['gold_peak'].shown} @{row['rollout_peak']}"
        best = f"{row['gold_best'].value:+.3f} @{row['rollout_best']}"
        nats = f"{row['kl_peak']:.1f}, {row['kl_end']:.1f}"
        texts = f"{row['gold_start'].shown:26}{peak:34}{row['gold_end'].shown:32}{best:16}{nats}"
        print(f"{arm} {seed}".ljust(12) + texts)
    for place, gain in gains.items():
        for seed, one in gain["seeds"].items():
            print(f"ensemble - single at the {place}, seed {seed}: {one.shown}")
        if gain["half_width"] is not None:
            print(f"ensemble - single at the {place}, over seeds: {interval(gain['mean'], gain['half_width'])}")


def run(args: argparse.Namespace, folder: Path) -> None:
    members = train_members(args, folder)
    places = [(arm, seed) for seed in args.seeds for arm in ARMS]  # arm after arm, so that a noisy hour is shared
    with ThreadPoolExecutor(args.jobs) as pool:
        curves = pool.map(lambda place: train_policy(args, place[0], members, place[1], folder), places)
        runs = {place: measured(one) for place, one in zip(places, curves, strict=True)}
    gains = {place: differences(runs, args.seeds, place) for place in PLACES}
    show(runs, gains)
    figures = {f"{arm} {seed}": row for (arm, seed), row in runs.items()} | {"ensemble - single": gains}
    print(json.dumps({"figures": figures, "targets": {}, "met": True, "machine": hardware()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", default="runs/tiny", help="where sft/checkpoint is")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--k", type=float, default=1.0, help="deviations taken off the mean")
    parser.add_argument("--steps", type=int, default=1200, help="four of them train on a rollout")
    parser.add_argument("--beta", type=float, default=1e-3, help="above 0, so that the KL is logged")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train at a time")
    parser.add_argument("--output_dir", type=Path, help="keeps the runs there, and goes on where some are finished")
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    args = parser.parse_args()
    if args.quick:
        args.members, args.seeds = 2, [0]
    with TemporaryDirectory() as temporary:
        folder = args.output_dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run(args, folder)


if __name__ == "__main__":
    main()
