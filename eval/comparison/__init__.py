"""Comparisons of evaluated checkpoints: which runs, which statistics, which verdicts."""
