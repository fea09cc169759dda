"""What PPO logs: weighted means between two logs, figures of a rollout, and its completions."""

import json
import math
import os
from collections import defaultdict
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from alignment.durable.atomic import write_text
from alignment.text import table
from alignment.trainers.ppo import maths
from alignment.trainers.ppo.rewards import Samples


@dataclass
class WeightedMean:
    total: float = 0.0
    weight: float = 0.0

    def add(self, total: float | Tensor, weight: float | Tensor = 1.0) -> None:
        self.total += float(total)
        self.weight += float(weight)

    def mean(self) -> float:
        return self.total / self.weight if self.weight else 0.0


class Metrics:
    """By name, a weighted mean, a maximum or a minimum of what was added since they were last read."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.means, self.maxima, self.minima = defaultdict(WeightedMean), {}, {}

    def add(self, name: str, total: float | Tensor, weight: float | Tensor = 1.0) -> None:
        self.means[name].add(total, weight)

    def add_tokens(self, mask: Tensor, values: dict[str, Tensor]) -> None:
        """Add values of tokens, of those that the mask names. mask and each of the values [B, T]."""
        sums = torch.stack([(value.detach() * mask).sum().float() for value in values.values()]).tolist()
        weight = int(mask.sum())
        for name, total in zip(values, sums, strict=True):
            self.add(name, total, weight)

    def add_max(self, name: str, value: float | Tensor) -> None:
        """Keep the largest of the values that come under a name."""
        self.maxima[name] = max(float(value), self.maxima.get(name, -math.inf))

    def add_min(self, name: str, value: float | Tensor) -> None:
        """Keep the smallest likewise."""
        self.minima[name] = min(float(value), self.minima.get(name, math.inf))

    def gather(self) -> None:
        """Take in what the other processes have."""
        if PartialState().num_processes == 1:
            return
        means = {name: (mean.total, mean.weight) for name, mean in self.means.items()}
        everyones = gather_object([(means, self.maxima, self.minima)])
        self.clear()
        for means, maxima, minima in everyones:
            for name, (total, weight) in means.items():
                self.add(name, total, weight)
            for name, value in maxima.items():
                self.add_max(name, value)
            for name, value in minima.items():
                self.add_min(name, value)

    def pop(self, prefix: str = "") -> dict[str, float]:
        self.gather()
        means = {prefix + name: mean.mean() for name, mean in self.means.items() if mean.weight}
        means |= {prefix + name: value for name, value in (self.maxima | self.minima).items()}
        self.clear()
        return means


def add_sample_metrics(metrics: Metrics, samples: Samples) -> None:
    """Rewards and lengths."""
    lengths = samples.rollout.completion_mask.sum(1).float()
    scorable = ~samples.scores.isnan()
    scores, num_scores = samples.scores[scorable], int(scorable.sum())
    for name, values in samples.rewards.items():
        metrics.add(f"rewards/{name}/mean", values.nansum(), (~values.isnan()).sum())
    terminated = samples.rollout.terminated
    metrics.add("completions/mean_length", lengths.sum(), len(lengths))
    metrics.add_min("completions/min_length", lengths.min())
    metrics.add_max("completions/max_length", lengths.max())
    metrics.add("completions/clipped_ratio", (~terminated).sum(), len(terminated))
    metrics.add("completions/mean_terminated_length", lengths[terminated].sum(), terminated.sum())
    if num_scores:
        metrics.add("reward", scores.sum(), num_scores)


def add_spread(metrics: Metrics, scores: Tensor, lengths: Tensor, total: maths.Total) -> None:
    """Add the deviation of the rewards of all completions, and the correlation with their lengths.

    Args:
        scores: (B,), NaN where a completion has none.
        lengths: (B,), tokens of the completions.
        total: sums over all processes.
    """
    scorable, scores = ~scores.isnan(), scores.nan_to_num()
    if total(scorable.sum()) > 0:
        metrics.add("reward_std", maths.masked_variance(scores, scorable, total).sqrt())
        metrics.add("reward_length_corr", maths.correlation(scores, lengths.float(), scorable, total))


def completions_table(samples: Samples, count: int) -> str:
    """The first completions and their rewards as text, a row each, cut to the width of a terminal."""
    rows = []
    for index in range(min(count, len(samples.rows))):
        told = samples.rows[index]["prompt"], samples.completions[index]
        texts = [one if isinstance(one, str) else one[-1]["content"] for one in told]
        rows.append([" ".join(text.split())[:56] for text in texts] + [f"{samples.scores[index]:.3f}"])
    return table(["prompt", "completion", "reward"], rows)


def write_completions(path: str, samples: Samples, step: int) -> None:
    """Append a JSON line for each completion, of all processes."""
    rewards = {name: values.tolist() for name, values in samples.rewards.items()}
    lines = []
    for index, (row, completion) in enumerate(zip(samples.rows, samples.completions, strict=True)):
        scores = {name: None if math.isnan(values[index]) else values[index] for name, values in rewards.items()}
        line = {"step": step, "prompt": row["prompt"], "completion": completion}
        line |= {"terminated": bool(samples.rollout.terminated[index]), "rewards": scores}
        lines.append(line | {name: values[index] for name, values in samples.extras.items()})
    lines = gather_object(lines)
    if PartialState().is_main_process:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def keep_completions_before(path: str, step: int) -> None:
    """Drop the completions of rollouts that are made again, and what a killed run had half written."""
    if not (PartialState().is_main_process and os.path.exists(path)):
        return
    with open(path, encoding="utf-8") as file:
        whole = [line for line in file if line.endswith("\n")]
    write_text(path, "".join(line for line in whole if json.loads(line)["step"] < step))
