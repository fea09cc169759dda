"""What a policy inherited from its judge: how much of its gain over a baseline the judge sees, and gold does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignment.text import percent
from reward_models.card.judge_bias import Estimate, rate, with_interval


def inherited(
    judge_gaps: Sequence[float] | np.ndarray,
    gold_gaps: Sequence[float] | np.ndarray,
    prompts: Sequence[Any] | None = None,
    equal: int = 0,
) -> dict[str, Any]:
    """Compare a policy's gain over a baseline in the eyes of the judge with that in gold's, on the same pairs.

    A judge that sees both replies gives no score to either, so that no score can be standardised by the baseline's
    replies. What every judge gives is a gap per pair: twice the preference less 1, or the difference of two ratings. A
    gap divided by the root mean square of all gaps has no unit, and is 0 for no difference; its mean, from -1 to 1, is
    the gain in standard deviations of a gap about no difference, for ratings as for preferences. (The standard
    deviation about the mean would be 0 for a judge that prefers the policy each time by the same gap.) `value` is the
    judge's gain less gold's. `wins` says the same of verdicts alone, in shares of pairs.

    A judge whose errors are noise sees a smaller gain than gold, since noise adds to the root mean square and turns
    verdicts: both figures are then below 0. Above 0, the policy gained in what the judge likes and gold does not.

    Args:
        judge_gaps, gold_gaps: (B,) of the policy's reply over the baseline's; NaN for no opinion: such pairs are left
            out.
        prompts: names the prompt of each pair; pairs of the same prompt count as dependent.
        equal: number of further pairs whose replies are the same, each a gap of 0 of a prompt of its own.

    Returns:
        {n, equal, judge_wins, gold_wins, wins, judge_gain, gold_gain, value, low, high}. Wins are {value, low, high,
        n}, in which a tie counts half; `wins` is judge_wins less gold_wins. The interval of `value` allows for the
        estimated root mean squares. Gains and `value` are None if all gaps of the judge or of gold are 0.
    """
    judge, gold = (np.asarray(gaps, float) for gaps in (judge_gaps, gold_gaps))
    names = (
        np.arange(len(judge)) if prompts is None else np.unique([repr(one) for one in prompts], return_inverse=True)[1]
    )
    known = np.isfinite(judge) & np.isfinite(gold)
    judge, gold = (np.append(gaps[known], np.zeros(equal)) for gaps in (judge, gold))
    groups = np.append(names[known], len(names) + np.arange(equal))
    unknown: Estimate = {"value": None, "low": None, "high": None, "n": len(judge)}
    sides = [(1 + np.sign(gaps)) / 2 for gaps in (judge, gold)]
    gains = [_gain(gaps) for gaps in (judge, gold)]
    wins, value = unknown, unknown
    if len(judge):
        difference = sides[0] - sides[1]
        wins = with_interval(float(difference.mean()), difference - difference.mean(), groups)
        if gains[0] and gains[1]:
            value = with_interval(gains[0][0] - gains[1][0], gains[0][1] - gains[1][1], groups)
    return {
        "n": len(judge),
        "equal": equal,
        "judge_wins": rate(sides[0], groups),
        "gold_wins": rate(sides[1], groups),
        "wins": wins,
        "judge_gain": gains[0] and gains[0][0],
        "gold_gain": gains[1] and gains[1][0],
        **{key: value[key] for key in ("value", "low", "high")},
    }


def _gain(gaps: np.ndarray) -> tuple[float, np.ndarray] | None:
    """The mean gap divided by the root mean square, and each gap's influence on it; None if all gaps are 0."""
    if not gaps.any():
        return None
    mean, square = float(gaps.mean()), float((gaps**2).mean())
    spread = square**0.5
    return mean / spread, (gaps - mean) / spread - mean * (gaps**2 - square) / (2 * spread**3)


def inherited_text(found: Mapping[str, Any]) -> str:
    """Who prefers the policy's replies how often, and what of that is the judge's alone, in sentences.

    Args:
        found: of `inherited`, with the names of `policy` and `baseline`.
    """
    pair = f"{found['policy']} over {found['baseline']}"
    if not found["n"]:
        return f"No pair of replies, {pair}, has both the judge's opinion and gold's."
    judge, gold = (percent(found[key]["value"]) for key in ("judge_wins", "gold_wins"))
    low, high = found["wins"]["low"], found["wins"]["high"]
    if low is None or high is None or low <= 0 <= high:
        meaning = "They do not differ beyond chance."
    elif low > 0:
        meaning = "The difference is a gain with the judge alone."
    else:
        meaning = "The judge sees less of the gain than gold."
    equal = f" ({found['equal']:,} of them equal replies, which count half)" if found["equal"] else ""
    return f"The judge prefers {pair} on {judge} of {found['n']:,} pairs{equal}, gold on {gold}. {meaning}"
