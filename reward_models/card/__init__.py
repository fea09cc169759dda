"""The reward card: accuracy on pairs, calibration, scores and best of n of a reward, measured and written."""
