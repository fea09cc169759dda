"""Logging of PPO: weighted means between two logs, statistics of a rollout, and its completions."""

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
from alignment.trainers.ppo.losses import PolicyLoss
from alignment.trainers.ppo.rewards import ScoredSamples


@dataclass
class WeightedMean:
    """A mean of weighted values, 0 without values."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, total: float | Tensor, weight: float | Tensor = 1.0) -> None:
        self.total += float(total)
        self.weight += float(weight)

    def mean(self) -> float:
        return self.total / self.weight if self.weight else 0.0


class Metrics:
    """Named weighted means, maxima and minima of the values that were added since the last `pop`."""

    def __init__(self) -> None:
        self.means: defaultdict[str, WeightedMean] = defaultdict(WeightedMean)
        self.maxima: dict[str, float] = {}
        self.minima: dict[str, float] = {}

    def clear(self) -> None:
        for values in (self.means, self.maxima, self.minima):
            values.clear()

    def add(self, name: str, total: float | Tensor, weight: float | Tensor = 1.0) -> None:
        """Add to a mean.

        Args:
            total: sum of the values, each times its weight.
            weight: sum of their weights.
        """
        self.means[name].add(total, weight)

    def add_tokens(self, mask: Tensor, values: dict[str, Tensor]) -> None:
        """Add the values of the tokens of a mask to means by name. mask and values [B, T]."""
        sums = torch.stack([(value.detach() * mask).sum().float() for value in values.values()]).tolist()
        weight = int(mask.sum())
        for name, total in zip(values, sums, strict=True):
            self.add(name, total, weight)

    def add_max(self, name: str, value: float | Tensor) -> None:
        """Keep the largest value of a name."""
        self.maxima[name] = max(float(value), self.maxima.get(name, -math.inf))

    def add_min(self, name: str, value: float | Tensor) -> None:
        """Keep the smallest value of a name."""
        self.minima[name] = min(float(value), self.minima.get(name, math.inf))

    def gather(self) -> None:
        """Combine the metrics of all processes."""
        if PartialState().num_processes == 1:
            return
        means = {name: (mean.total, mean.weight) for name, mean in self.means.items()}
        of_all = gather_object([(means, dict(self.maxima), dict(self.minima))])
        self.clear()
        for means, maxima, minima in of_all:
            for name, (total, weight) in means.items():
                self.add(name, total, weight)
            for name, value in maxima.items():
                self.add_max(name, value)
            for name, value in minima.items():
                self.add_min(name, value)

    def pop(self, prefix: str = "") -> dict[str, float]:
        """Return the metrics of all processes, with a prefix to their names, and clear them."""
        self.gather()
        means = {prefix + name: mean.mean() for name, mean in self.means.items() if mean.weight}
        means |= {prefix + name: value for name, value in (self.maxima | self.minima).items()}
        self.clear()
        return means


def add_sample_metrics(metrics: Metrics, samples: ScoredSamples) -> None:
    """Add rewards and lengths of completions."""
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
    """Add the standard deviation of the scores of all completions, and their correlation with the lengths.

    Args:
        scores: [B], NaN for completions without a score.
        lengths: [B], number of tokens per completion.
        total: sums over all processes.
    """
    scorable, scores = ~scores.isnan(), scores.nan_to_num()
    if total(scorable.sum()) > 0:
        metrics.add("reward_std", maths.masked_variance(scores, scorable, total).sqrt())
        metrics.add("reward_length_corr", maths.correlation(scores, lengths.float(), scorable, total))


def add_policy_metrics(metrics: Metrics, loss: PolicyLoss, mask: Tensor) -> None:
    """Add the surrogate, ratio, share of clipped tokens and approximate KL of a micro-batch. mask [B, T]."""
    tokens = {"loss/policy": loss.surrogate, "ratio/mean": loss.ratio}
    metrics.add_tokens(mask, tokens | {"clip_ratio/region_mean": loss.is_clipped, "approx_kl": loss.approx_kl})
    metrics.add_max("ratio/max", (loss.ratio.detach() * mask).max())
    if loss.sampling_weights is not None:
        metrics.add_tokens(mask, {"sampling/importance_ratio": loss.sampling_weights})


def completions_table(samples: ScoredSamples, count: int) -> str:
    """A text table of the first completions and their scores, cut to the width of a terminal."""
    rows = []
    for index in range(min(count, len(samples.rows))):
        sides = samples.rows[index]["prompt"], samples.completions[index]
        texts = [side if isinstance(side, str) else side[-1]["content"] for side in sides]
        rows.append([" ".join(text.split())[:56] for text in texts] + [f"{samples.scores[index]:.3f}"])
    return table(["prompt", "completion", "reward"], rows)


def write_completions(path: str, samples: ScoredSamples, step: int) -> None:
    """Append a JSON line per completion, of all processes."""
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
    """Drop the completions from a step on, which a resumed run samples again, and a half-written last line."""
    if not (PartialState().is_main_process and os.path.exists(path)):
        return
    with open(path, encoding="utf-8") as file:
        whole = [line for line in file if line.endswith("\n")]
    write_text(path, "".join(line for line in whole if json.loads(line)["step"] < step))
