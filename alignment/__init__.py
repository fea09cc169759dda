"""Post-training alignment: importing this package makes the GPT known to transformers' Auto classes.

It imports neither torch nor transformers (`registration.py`), so that verbs without a model start at once. The Python
API (`from alignment import load, run_stage, evaluate, compare`) is imported when it is first used.
"""

from typing import Any

from .registration import register

API = ("load", "run_stage", "evaluate", "compare")

register()


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from alignment.cli import python_api

    return getattr(python_api, name)
