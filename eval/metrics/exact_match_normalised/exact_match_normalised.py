"""Exact match after normalisation, as an `evaluate` metric: `evaluate.load(path of this file)`."""

import datasets
import evaluate
import numpy as np

from eval.comparison.standard_errors import mean_se
from eval.generation.replies import exact_match

DESCRIPTION = (
    "Share of predictions that equal a reference, ignoring case, ASCII punctuation, articles and extra spaces."
)
INPUTS = """
Args:
    predictions: texts.
    references: a text, or a list of accepted texts, per prediction.
Returns:
    exact_match, and its standard error se (NaN for fewer than two predictions).
"""


class ExactMatchNormalised(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=[
                datasets.Features({"predictions": text, "references": text}),
                datasets.Features({"predictions": text, "references": datasets.List(text)}),
            ],
        )

    def _compute(self, predictions, references):
        matches = np.array(exact_match(predictions, references))
        return {"exact_match": float(matches.mean()), "se": mean_se(matches)}
