"""Distinct n-grams, as an `evaluate` metric: `evaluate.load(path of this file)`."""

import datasets
import evaluate

from eval.generation.replies import distinct_n

DESCRIPTION = (
    "Share of distinct n-grams among all word n-grams in a set of texts (Li et al. 2016): how varied they are."
)
INPUTS = """
Args:
    predictions: texts. The share falls as they get longer or more numerous: compare sets of similar size.
    n: words per n-gram, by default 2.
Returns:
    distinct_n; None if no text has n words.
"""


class DistinctN(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions, n=2):
        return {"distinct_n": distinct_n(predictions, n)}
