"""Are common misconceptions repeated? TruthfulQA, one true answer (mc1) or several (mc2)."""
