"""Win rate with ties and interval, as an `evaluate` metric: `evaluate.load(path of this file)`."""

import datasets
import evaluate
import numpy as np

from eval.generation.winrate import win_rate

DESCRIPTION = "How often a side wins; a tie is half a win. The 95% interval is clustered, for example by prompt."
INPUTS = """
Args:
    predictions: outcomes, 1 (won), 0.5 (tie), 0 (lost), NaN (no opinion).
    clusters: labels; outcomes with the same label, such as their prompt, may depend on each other. Default: none.
Returns:
    win_rate, se, ci_low, ci_high, win, tie, loss, unjudged, n, clusters, verdict (a, b, tied or unknown).
"""


class WinRate(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(self, predictions, clusters=None):
        return win_rate(np.array(predictions, dtype=float), clusters)
