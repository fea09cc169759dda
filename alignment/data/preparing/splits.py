"""Validation rows split off, and training rows left out that ask what a held-out row asks."""

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
    """Take a share of the rows out of `part`; rows that ask the same (or are the same text) stay on one side."""
    train, validation = draw_groups(part, kind, share, seed)
    source = part.account
    account = Account(source.source, source.source_split, "validation", len(validation), source.format)
    account.rows = len(validation)
    source.remove(f"split off for validation (seed {seed})", len(validation))
    taken = Part(part.rows.select(validation), part.numbers[validation], account)
    part.select(train)
    return taken


def draw_groups(part: Part, kind: str, share: float, seed: int) -> tuple[list[int], list[int]]:
    """The places of train and validation rows: `share` of the different things asked go to validation."""
    keys = [asked_key(row, kind) for row in canonical_rows(part.rows, kind)]
    groups = list(dict.fromkeys(keys))
    if len(groups) < 2:
        raise UserError(
            "There are too few different rows to split some off for validation.",
            got=f"{len(keys)} row(s), {len(groups)} different; {part.account}",
            expected="2 or more",
            fix="set eval_share: 0, or name a dataset_test_split",
        )
    size = min(max(1, round(share * len(groups))), len(groups) - 1)
    held_out = set(random.Random(seed).sample(groups, size))
    train = [place for place, key in enumerate(keys) if key not in held_out]
    validation = [place for place, key in enumerate(keys) if key in held_out]
    return train, validation


def clean(train: Sequence[Part], held_out: Sequence[Part], kind: str, near: float | None) -> list[str]:
    """Leave training rows out that ask what a held-out row asks, or nearly so.

    tinyworld's own rows are counted and stay: its splits are made apart, and what they share in pretraining are its
    facts, in sentences that recur by design.

    Args:
        near: the similarity from which texts are near duplicates; None to compare what is exactly the same.

    Returns:
        Sentences on what was left in.
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
