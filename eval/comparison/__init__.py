"""Comparisons of evaluated checkpoints: pairs of runs, statistics and verdicts."""
