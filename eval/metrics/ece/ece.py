"""Expected calibration error, as an `evaluate` metric: `evaluate.load(path of this file)`."""

import datasets
import evaluate
import numpy as np

from eval.comparison.calibration import expected_calibration_error

DESCRIPTION = "How far a model's confidence is from how often it is right: the mean gap over bins of like confidence."
INPUTS = """
Args:
    predictions: confidences in [0, 1].
    references: 1 where the answer was right, else 0.
    bins: of about equal numbers of items, by default 10.
Returns:
    ece. Noise alone keeps it above 0: compare on the same items and bins.
"""


class ECE(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, bins=10):
        return {"ece": expected_calibration_error(np.array(predictions), np.array(references), bins)}
