"""Several rewards as one: their mean, their least, or their mean less their disagreement (Coste et al. 2023)."""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.errors import UserError, unknown
from reward_models.card.pairs import read_pairs
from reward_models.learned import load_members
from reward_models.protocol import Reward, Text

if TYPE_CHECKING:
    from datasets import Dataset

AGGREGATES = ("mean", "min", "mean-std")
logger = logging.getLogger(__name__)


class Ensemble:
    """A `Reward`; None for a completion of which some member has no opinion.

    Beside a trainer it logs the members' mean deviation as the metric NAME/std, and each completion's as the column
    NAME_std of the completions.

    Args:
        aggregate: mean, min, or mean-std: the mean less `k` deviations (over the members, not corrected for their
            number).
        offsets: what is taken off each member's scores first. Pairs determine scores only up to a constant for each
            member, so that without it `min` may mean one and the same member always.
    """

    def __init__(
        self,
        members: Sequence[Reward],
        aggregate: str = "mean",
        k: float = 1.0,
        offsets: Sequence[float] | None = None,
        name: str = "ensemble",
    ):
        if aggregate not in AGGREGATES:
            raise unknown("aggregate of an ensemble", aggregate, AGGREGATES)
        self.members, self.aggregate, self.k, self.__name__ = list(members), aggregate, k, name
        self.offsets = np.zeros(len(self.members)) if offsets is None else np.asarray(offsets, dtype=float)

    def scores(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> np.ndarray:
        """What each member says, less its offset; NaN where it has no opinion. -> (members, B)"""
        answers = [one(prompts=prompts, completions=completions, **columns) for one in self.members]
        return np.array(answers, dtype=float) - self.offsets[:, None]

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        scores = self.scores(prompts, completions, completion_ids=completion_ids, **columns)
        self._log(uncertainty(scores), columns)
        combined = aggregated(scores, self.aggregate, self.k)
        return [None if math.isnan(value) else value for value in combined.tolist()]

    def _log(self, deviations: np.ndarray, columns: dict[str, Any]) -> None:
        known = deviations[~np.isnan(deviations)]
        if len(known) and "log_metric" in columns:
            columns["log_metric"](f"{self.__name__}/std", float(known.mean()))
        if "log_extra" in columns:
            values = [None if math.isnan(value) else value for value in deviations.tolist()]
            columns["log_extra"](f"{self.__name__}_std", values)


def uncertainty(scores: np.ndarray) -> np.ndarray:
    """How far the members are apart: the deviation of each completion's scores. (members, B) -> (B,)"""
    return scores.std(axis=0)


def aggregated(scores: np.ndarray, aggregate: str, k: float = 1.0) -> np.ndarray:
    """One score a completion. (members, B) -> (B,)"""
    if aggregate == "min":
        return scores.min(axis=0)
    mean = scores.mean(axis=0)
    return mean - k * uncertainty(scores) if aggregate == "mean-std" else mean


def ensemble(
    members: list[str],
    aggregate: str = "mean",
    k: float = 1.0,
    reference: str | None = None,
    reference_rows: int = 256,
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "auto",
) -> Ensemble:
    """An ensemble of reward models; those that are adapters on one base hold it once.

    Args:
        members: checkpoints, or hub ids.
        reference: preference pairs (a file, or tinyworld:preference) over whose first replies each member's mean
            score is set to 0.
    """
    if aggregate not in AGGREGATES:
        raise unknown("aggregate of an ensemble", aggregate, AGGREGATES)  # before anything is loaded
    if len(members) < 2:
        raise UserError(
            "an ensemble of one", got=", ".join(members), expected="two members or more, with commas between"
        )
    rewards = load_members(members, batch_size, device, dtype)
    if reference is None:
        if aggregate != "mean":
            logger.warning("ensemble: no `reference`, so a member whose scores are low by a constant counts most")
        return Ensemble(rewards, aggregate, k)
    pairs = read_pairs(reference, limit=reference_rows)
    return Ensemble(rewards, aggregate, k, [mean_score(one, pairs) for one in rewards])


def mean_score(reward: Reward, pairs: "Dataset") -> float:
    """The mean over all replies of the pairs, chosen and rejected, that it has an opinion of."""
    prompts = list(pairs["prompt"])
    scores = [reward(prompts=prompts, completions=list(pairs[side])) for side in ("chosen", "rejected")]
    return float(np.nanmean(np.array(scores, dtype=float)))
