"""Two processes' share of a rollout each, as two threads that wait for each other's sums."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from compared import assert_close
from torch import Tensor

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.experience import make_targets
from alignment.trainers.ppo.metrics import Metrics
from alignment.trainers.ppo.rollout import Rollout


def in_two(function: Callable) -> list:
    """function(rank, total) in both threads; total(values) is the sum of what both give."""
    barrier, parts = Barrier(2, timeout=30), {}

    def of(rank: int):
        def total(values: Tensor) -> Tensor:
            parts[rank] = values
            barrier.wait()
            both = parts[0] + parts[1]
            barrier.wait()
            return both

        return function(rank, total)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(of, range(2)))


def experience(lengths: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Scores, values and KL of completions of these lengths, each in the last columns of its row."""
    generator, width = torch.Generator().manual_seed(seed), max(lengths)
    drawn = {name: torch.randn(len(lengths), width, generator=generator) for name in ("kl", "values", "others")}
    drawn["outputs"] = torch.randn(len(lengths), width + 1, generator=generator)
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    return drawn | {"mask": mask, "scores": torch.randn(len(lengths), generator=generator) * 3}


def advantages(drawn: dict[str, Tensor], rows: slice, total=maths.identity) -> dict[str, Tensor]:
    """What a process makes of its rows, and the statistics that all have."""
    mask = drawn["mask"][rows]
    ids = torch.zeros_like(mask).long()
    rollout = Rollout(ids, mask, mask, mask[:, 0] | True)
    metrics = Metrics()
    args = PPOConfig("unused", use_cpu=True, whiten_rewards=True, gamma=0.9, lam=0.8)
    scores, kl, outputs = (drawn[name][rows] for name in ("scores", "kl", "outputs"))
    targets = make_targets(rollout, scores, kl, outputs, args, 0.2, 0.1, metrics, total)
    sums = (drawn["kl"][rows] * mask).sum(1)
    figures = {name: mean.mean() for name, mean in metrics.means.items()}
    figures["kl/completion"] = float(maths.masked_mean(sums, torch.ones_like(sums), total))
    return {name: getattr(targets, name) for name in ("advantages", "returns", "old_values")} | {"figures": figures}


def check_totals(lengths: list[int], first: int) -> None:
    """Advantages, returns and statistics of two processes, of which one has the first rows, are those of one."""
    drawn = experience(lengths)
    whole = advantages(drawn, slice(None))
    parts = [slice(0, first), slice(first, None)]
    halves = in_two(lambda rank, total: advantages(drawn, parts[rank], total))
    for name in ("advantages", "returns", "old_values"):
        assert_close(torch.cat([half[name] for half in halves]), whole[name], name)
    for half in halves:
        assert_close(list(half["figures"].values()), list(whole["figures"].values()), "figures of the rollout")


def check_rows(lengths: list[int], order: list[int], before: int) -> None:
    """Neither the order of the rows nor columns of padding before them change what a row is given."""
    drawn = experience(lengths)
    whole = advantages(drawn, slice(None))
    garbage = torch.full((len(lengths), before), 7.0)
    moved = {
        name: torch.cat([garbage, one], 1)[order] if one.ndim == 2 and name != "mask" else one[order]
        for name, one in drawn.items()
    }
    moved["mask"] = torch.cat([garbage.bool() & False, drawn["mask"]], 1)[order]
    found = advantages(moved, slice(None))
    for name in ("advantages", "returns"):
        assert_close(found[name][:, before:], whole[name][order], name)
        assert not found[name][:, :before].any(), f"{name} of padding"
    assert_close(list(found["figures"].values()), list(whole["figures"].values()), "figures of the rollout")
