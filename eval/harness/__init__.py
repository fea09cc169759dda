"""The harness: loads suites of tasks, runs them on a checkpoint through lm-eval, and stores the eval runs."""
