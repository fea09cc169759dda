"""Evaluation: suites and metrics, the harness that runs them, comparisons of runs, and generation.

`from eval import evaluate` runs a suite on a checkpoint; the import is lazy.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from eval.harness.run_suite import evaluate

    return evaluate
