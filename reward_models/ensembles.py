"""Several rewards as one: their mean, minimum, or mean minus disagreement (Coste et al. 2023)."""

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
    """A `Reward`; None for a completion on which a member has no opinion.

    In a trainer it logs the members' mean standard deviation as the metric NAME/std, and the deviation of each
    completion as the column NAME_std of the completions.

    Args:
        aggregate: mean, min, or mean-std: the mean minus `k` standard deviations over the members (population
            deviation, ddof 0).
        offsets: subtracted from each member's scores first. Pairs determine scores only up to a constant per member, so
            that without offsets `min` may always pick the same member.
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
        """Scores of each member minus its offset; NaN for no opinion. -> (members, B)"""
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
    """Disagreement of the members: the standard deviation of each completion's scores. (members, B) -> (B,)"""
    return scores.std(axis=0)


def aggregated(scores: np.ndarray, aggregate: str, k: float = 1.0) -> np.ndarray:
    """The ensemble's score of each completion. (members, B) -> (B,)"""
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
    """An ensemble of reward models; adapters on the same base share it.

    Args:
        members: checkpoints or hub ids.
        aggregate, k: as for `Ensemble`.
        reference: preference pairs (a file, or tinyworld:preference) over which each member's mean score is set to 0.
        reference_rows: at most so many pairs of it, from the first.
        batch_size, device, dtype: as for `reward_models.learned.reward`.
    """
    if aggregate not in AGGREGATES:
        raise unknown("aggregate of an ensemble", aggregate, AGGREGATES)  # before anything is loaded
    if len(members) < 2:
        raise UserError("an ensemble of one member", got=", ".join(members), expected="two or more, comma-separated")
    rewards = load_members(members, batch_size, device, dtype)
    if reference is None:
        if aggregate != "mean":
            logger.warning("ensemble: without a `reference` a member whose scores are lower by a constant counts most")
        return Ensemble(rewards, aggregate, k)
    pairs = read_pairs(reference, limit=reference_rows)
    return Ensemble(rewards, aggregate, k, [mean_score(one, pairs) for one in rewards])


def mean_score(reward: Reward, pairs: "Dataset") -> float:
    """The mean score over all replies of the pairs, chosen and rejected; replies without a score are left out."""
    prompts = list(pairs["prompt"])
    scores = [reward(prompts=prompts, completions=list(pairs[side])) for side in ("chosen", "rejected")]
    return float(np.nanmean(np.array(scores, dtype=float)))
