"""The counts in a checkpoint's config.json that a model is built by, one after the other.

A library builds a layer for each that the config counts: with a damaged count it would not come to an end.
"""

import re
from pathlib import Path
from typing import Any

from alignment.errors import UserError

COUNTS = re.compile(r"(layers?|experts?|blocks)$")  # num_hidden_layers, n_layer, num_local_experts
MOST = 10_000  # far more layers or experts than any model has; that many are built in seconds


def require_countable(config: Any, file: Path) -> None:
    """Raise if a config, or a config within it, counts more layers or experts than a model can have."""
    wrong = uncountable(config)
    if wrong:
        raise UserError(
            f"{file} describes a model that is too deep to build",
            got=", ".join(wrong),
            expected=f"at most {MOST:,}",
            fix="correct it, or copy config.json again",
        )


def uncountable(config: Any, inside: str = "") -> list[str]:
    """Return the counts of a config that are too large, each as `key: value`."""
    if not isinstance(config, dict):
        return []
    wrong = []
    for key, value in config.items():
        if isinstance(value, dict):
            wrong += uncountable(value, f"{inside}{key}.")
        elif isinstance(value, int | float) and value > MOST and COUNTS.search(key):
            wrong.append(f"{inside}{key}: {value:g}")
    return wrong
