"""Check that the prompts have the columns that the recipe's reward functions read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alignment.check.findings import Finding, error, from_user_error, warning
from alignment.check.material import Material
from alignment.errors import UserError
from reward_models.functions import needed_columns, require_columns


def check_reward_columns(material: Material) -> Iterator[Finding]:
    """Report columns that reward functions need and the prompts lack, in all rows or in some."""
    for spec in material.get("reward_funcs", []):
        try:
            needed = needed_columns(spec)
            require_columns(spec, material.train.column_names)
        except UserError as mistake:
            yield from from_user_error(mistake)
            continue
        for column in needed:
            empty = [value in (None, "", []) for value in material.train[column]]
            yield from _without_values(spec, column, empty)


def _without_values(spec: str, column: str, empty: list[Any]) -> Iterator[Finding]:
    if all(empty):
        yield error(f"{spec} has no value in any row of its column {column!r}", fix="name the column with the values")
    elif any(empty):
        got = f"{sum(empty)} of {len(empty)} training rows"
        yield warning(f"{spec} gives no reward for rows without a value in {column!r}", got=got)
