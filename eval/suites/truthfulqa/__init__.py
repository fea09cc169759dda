"""TruthfulQA: common misconceptions, with one true answer (mc1) or several (mc2)."""
