"""Bits per byte, as an `evaluate` metric: `evaluate.load(path of this file)`."""

import datasets
import evaluate
import numpy as np

from eval.comparison.standard_errors import mean_se, weighted_mean

DESCRIPTION = "Bits that a model needs per byte of text (UTF-8), comparable between tokenizers. Lower is better."
INPUTS = """
Args:
    predictions: natural-log likelihoods of the texts.
    references: the texts.
Returns:
    bits_per_byte over all bytes, and its standard error se over texts (NaN for fewer than two texts).
"""


class BitsPerByte(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        sizes = np.array([len(text.encode()) for text in references], dtype=float)
        if not sizes.all():
            raise ValueError(f"{int(np.sum(sizes == 0))} of {len(sizes)} texts are empty")
        scores = -np.array(predictions) / (sizes * np.log(2))
        return {"bits_per_byte": weighted_mean(scores, sizes), "se": mean_se(scores, sizes)}
