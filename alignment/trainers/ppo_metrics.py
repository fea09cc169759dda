"""What PPO logs: weighted means between two logs, figures of a rollout, and its completions."""

import json
import os
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.trainers import ppo_math
from alignment.trainers.ppo_rewards import Samples


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
    """A weighted mean by name, of what was added since they were last read."""

    def __init__(self):
        self.means = defaultdict(WeightedMean)

    def add(self, name: str, total: float | Tensor, weight: float | Tensor = 1.0) -> None:
        self.means[name].add(total, weight)

    def add_tokens(self, mask: Tensor, values: dict[str, Tensor]) -> None:
        """Add values of tokens, of those that the mask names. mask and each of the values [B, T]."""
        sums = torch.stack([(value.detach() * mask).sum().float() for value in values.values()]).tolist()
        weight = int(mask.sum())
        for name, total in zip(values, sums, strict=True):
            self.add(name, total, weight)

    def pop(self, prefix: str = "") -> dict[str, float]:
        means = {prefix + name: mean.mean() for name, mean in self.means.items() if mean.weight}
        self.means.clear()
        return means


def add_sample_metrics(metrics: Metrics, samples: Samples) -> None:
    """Rewards, lengths, and how the two go together."""
    lengths = samples.rollout.completion_mask.sum(1).float()
    scorable = ~samples.scores.isnan()
    scores, num_scores = samples.scores[scorable], int(scorable.sum())
    for name, values in samples.rewards.items():
        metrics.add(f"rewards/{name}/mean", values.nansum(), (~values.isnan()).sum())
    metrics.add("completions/mean_length", lengths.mean())
    metrics.add("completions/terminated_ratio", samples.rollout.terminated.float().mean())
    if num_scores:
        metrics.add("reward", scores.mean())
        metrics.add("reward_std", scores.std(correction=0))
        metrics.add("reward_length_corr", ppo_math.correlation(scores, lengths[scorable]))


def write_completions(path: str, samples: Samples, step: int) -> None:
    """Append a JSON line for each completion."""
    rewards = {name: values.tolist() for name, values in samples.rewards.items()}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        for index, (row, completion) in enumerate(zip(samples.rows, samples.completions, strict=True)):
            line = {
                "step": step,
                "prompt": row["prompt"],
                "completion": completion,
                "terminated": bool(samples.rollout.terminated[index]),
                "rewards": {
                    name: None if values[index] != values[index] else values[index] for name, values in rewards.items()
                },
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
