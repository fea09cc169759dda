"""Expected calibration error, as an `evaluate` metric: `evaluate.load(path of this file)`."""

import datasets
import evaluate
import numpy as np

from reward_models.reliability import expected_calibration_error

DESCRIPTION = "Expected calibration error: the mean gap between confidence and accuracy over bins of like confidence."
INPUTS = """
Args:
    predictions: confidences in [0, 1].
    references: 1 if the answer was right, otherwise 0.
    bins: their number, by default 10.
    by: "mass" for bins of about equal numbers of items (the default), "width" for bins of equal width over [0, 1].
Returns:
    ece. Noise alone keeps it above 0: compare models on the same items and bins.
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

    def _compute(self, predictions, references, bins=10, by="mass"):
        return {"ece": expected_calibration_error(np.array(predictions), np.array(references), bins, by)}
