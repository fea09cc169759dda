"""Splitting off validation rows, and dropping training rows with the same prompt as a held-out row."""

from __future__ import annotations

import random
from collections.abc import Sequence

from alignment.data.preparing.account import Account
from alignment.data.preparing.filters import (
    Filtered,
    Texts,
    asked_key,
    asked_text,
    canonical_rows,
    without_keys,
    without_near,
)
from alignment.data.preparing.parts import Part, apply, canonical
from alignment.data.reading.sources import is_tinyworld
from alignment.errors import UserError


def split_off(part: Part, kind: str, share: float, seed: int) -> Part:
    """Take a share of the rows out of `part`; rows with the same prompt (or text) go to the same side."""
    train, validation = draw_groups(part, kind, share, seed)
    source = part.account
    account = Account(source.source, source.source_split, "validation", len(validation), source.format)
    account.rows = len(validation)
    source.remove(f"split off for validation (seed {seed})", len(validation))
    taken = Part(part.rows.select(validation), part.numbers[validation], account)
    part.select(train)
    return taken


def draw_groups(part: Part, kind: str, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the places of train and validation rows: a `share` of the distinct prompts goes to validation."""
    keys = [asked_key(row, kind) for row in canonical_rows(part.rows, kind)]
    groups = list(dict.fromkeys(keys))
    if len(groups) < 2:
        raise UserError(
            "There are too few distinct rows to split off a validation set.",
            got=f"{len(keys)} row(s), {len(groups)} distinct; {part.account}",
            expected="at least 2",
            fix="set eval_share: 0, or name a dataset_test_split",
        )
    size = min(max(1, round(share * len(groups))), len(groups) - 1)
    held_out = set(random.Random(seed).sample(groups, size))
    train = [place for place, key in enumerate(keys) if key not in held_out]
    validation = [place for place, key in enumerate(keys) if key in held_out]
    return train, validation


def clean(train: Sequence[Part], held_out: Sequence[Part], kind: str, near: float | None) -> list[str]:
    """Drop training rows whose prompt is the same as, or nearly the same as, a held-out row's.

    tinyworld's rows are counted and kept: its splits have different entities, and its pretraining documents repeat
    sentences by design.

    Args:
        near: smallest similarity of near duplicates; None to drop only exact duplicates.

    Returns:
        Notes on the rows that were kept.
    """
    notes = []
    forbidden: dict[bytes, str] = {}
    for part in held_out:
        reason = f"also in the {part.account.split} split"
        for row in canonical_rows(part.rows, kind):
            forbidden.setdefault(asked_key(row, kind), reason)
    for part in train:
        filtered = without_keys((asked_key(row, kind) for row in canonical_rows(part.rows, kind)), forbidden)
        if is_tinyworld(part.account.source):
            part.account.shared = len(filtered.removed)
            if part.account.shared:
                notes.append(f"{part.account.source}: {part.account.shared} training rows are in a held-out split too")
            continue
        apply(filtered, [part], kind, lost=True)
        if near is not None and held_out and len(part.rows):
            apply(_near(part, held_out, kind, near), [part], kind, lost=True)
    return notes


def _near(part: Part, held_out: Sequence[Part], kind: str, threshold: float) -> Filtered:
    texts = Texts(part.rows, kind, asked_text)
    others = Texts(canonical(held_out, kind), kind, asked_text)
    return without_near(texts, others, threshold, "like a row of a held-out split")
