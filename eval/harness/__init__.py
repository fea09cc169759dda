"""Suites of tasks, run on a checkpoint through lm-eval."""
