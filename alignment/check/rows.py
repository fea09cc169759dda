"""Checks of the rows themselves: what was dropped, repeated, leaked, or would be read otherwise than meant."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from alignment.check.findings import Finding, by_share, error, note, warning
from alignment.check.material import Material
from alignment.data.reading.formats import KINDS, READ_COLUMNS
from alignment.errors import nearest
from reward_models.card.pairwise import GOLD_COLUMNS

SCORES = re.compile(r"label|score|reward|margin|rating|gold")
# Columns that change what a row means, and that no format reads.
TELLING = ("system", "system_prompt", "tools", "history", "context", "images", "image")
# What each reason to drop a row is about, where formats.py's own words are short.
REASONS = {
    "empty reply": ("assistant turns are empty", "delete them, or fill them in"),
    "chosen and rejected are the same": ("chosen and rejected are identical", "delete the pairs: they teach nothing"),
    "also in the validation split": (
        "held-out rows are in the training rows",
        "take them out of the data, or let eval_share split the rows: it keeps prompts together",
    ),
    "also in the card split": (
        "rows that the reward model is judged on are in the training rows",
        "take them out of the data, or name another dataset_card_split",
    ),
    "chosen and rejected answer different prompts": (
        "the prompts of pairs differ",
        "pair replies to one and the same conversation",
    ),
}


def check_dropped(material: Material) -> Iterator[Finding]:
    """Every reason for which rows were dropped, with its count."""
    for account in material.rows.report.accounts:
        for lost in (removal for removal in account.removed if removal.lost):
            what, fix = REASONS.get(lost.reason, (lost.reason, "correct the rows, or filter them out of the data"))
            share, examples = lost.rows / account.read, "; ".join(lost.examples)
            place = f"{account.source}, split {account.source_split}"
            yield by_share(
                share,
                material.options.dropped,
                what if lost.reason.startswith("also in") else f"rows are dropped: {what}",
                got=f"{lost.rows} of {account.read} rows of {place} ({share:.1%}): {lost.reason} ({examples})",
                expected=f"at most {material.options.dropped:.0%} for a reason (--max_dropped)",
                fix=fix,
            )


def check_columns(material: Material) -> Iterator[Finding]:
    """Columns that nothing reads, and those among them that look like a misspelt one or change what a row means."""
    if material.kind == "prompts":
        return  # the reward functions get them
    read = {*READ_COLUMNS, *GOLD_COLUMNS, *KINDS[material.kind], *(material.get("columns") or {})}
    columns = material.train.column_names
    unread = [name for name in columns if name not in read]
    for name in unread:
        near = nearest(name.lower(), sorted(read - set(columns)), cutoff=0.85)
        if near:
            yield warning(
                f"the column {name!r} is not read",
                got=", ".join(columns),
                fix=f"if {near[0]!r} is meant: columns: {{{name}: {near[0]}}}",
            )
    telling = [name for name in unread if name.lower() in TELLING]
    if telling and material.kind != "text":
        yield warning(
            f"columns that change what a row says are not read: {', '.join(telling)}",
            got=", ".join(columns),
            fix="put their content into the messages; a system prompt is a first message of role system",
        )
    if unread:
        yield note(f"columns not read: {', '.join(unread)}")


def check_duplicates(material: Material) -> Iterator[Finding]:
    """Training rows that stand there more than once."""
    if material.method == "tokenizer":
        return  # a vocabulary is no worse for it
    accounts = [account for account in material.rows.report.accounts if account.duplicates]
    repeated, rows = sum(account.duplicates for account in accounts), sum(account.rows for account in accounts)
    if repeated:
        yield warning(
            "training rows are duplicates of others",
            got=f"{repeated} of {rows} rows ({repeated / rows:.1%})",
            fix="deduplicate: exact leaves them out",
        )


def check_leaks(material: Material) -> Iterator[Finding]:
    """No row that a model is judged on, nor a near-duplicate of one, is a training row."""
    if material.method == "tokenizer":
        return
    exact, near = set(), set()
    for row in material.read("train"):
        exact.add(_exact(row))
        near.add(_near(row))
    for split in sorted(material.rows.splits.keys() - {"train"}):
        held_out = list(material.read(split))
        same = sum(_exact(row) in exact for row in held_out)
        alike = sum(_near(row) in near for row in held_out) - same
        # Short generated documents coincide; a conversation does not.
        allowed = material.options.leaked_text if material.kind == "text" else 0
        fix = "take them out of the training data, or let eval_share split the rows: it keeps prompts together"
        if same:
            got = f"{same} of {len(held_out)} rows of the {split} split ({same / len(held_out):.1%})"
            what = "held-out rows are in the training rows"
            yield by_share(same / len(held_out), allowed, what, got=got, expected="none", fix=fix)
        if alike:
            got = f"{alike} of {len(held_out)} rows of the {split} split, but for case, space and punctuation"
            yield warning("held-out rows are near-duplicates of training rows", got=got, expected="none", fix=fix)


def check_scores(material: Material) -> Iterator[Finding]:
    """Columns of labels and scores hold a number in every row."""
    for name in material.train.column_names:
        if not SCORES.search(name.lower()):
            continue
        values = list(material.train[name])
        missing = sum(map(_is_nothing, values))
        if missing:
            yield error(
                f"the column {name!r} has rows without a number",
                got=f"{missing} of {len(values)} rows are NaN or empty",
                expected="a label or score in every row",
                fix="fill them in, or delete the rows",
            )


def check_labels(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """KTO needs examples of both kinds."""
    labels = {bool(row["label"]) for row in rows}
    if len(labels) == 1:
        yield error(
            "all labels are the same",
            got=f"{len(rows)} rows with label {labels.pop()}",
            expected="desirable and undesirable completions",
            fix="add rows of the other label, or check the column that is read as label",
        )


def check_kto(material: Material) -> Iterator[Finding]:
    yield from check_labels(list(material.read("train")))


def check_injected(material: Material) -> Iterator[Finding]:
    """Text of the data that the template would turn into special tokens."""
    tokenizer = material.tokenizer
    special = {*tokenizer.all_special_tokens, *(token for token in tokenizer.get_added_vocab() if len(token) > 2)}
    special = sorted(token for token in special if token.strip())
    if not special:
        return
    pattern = re.compile("|".join(map(re.escape, special)))
    found = Counter()
    rows = 0
    for row in material.read("train"):
        tokens = set(pattern.findall("\n".join(texts_of(row))))
        found.update(tokens)
        rows += bool(tokens)
    if rows:
        what = "text of the data reads like special tokens"
        got = ", ".join(f"{token!r} in {count} rows" for token, count in found.most_common(4))
        if material.kind == "text":
            yield note(what, got=f"{got}; documents keep them as text")
        else:
            yield warning(
                what,
                got=f"{got}: the template makes the real token of them",
                expected="text that cannot end or begin a turn",
                fix="replace them in the data, for example by a space inside",
            )


def texts_of(row: dict[str, Any]) -> list[str]:
    """All that people or models said in a canonical row."""
    if "text" in row:
        return [row["text"]]
    names = ("messages", "prompt", "chosen", "rejected", "completion")
    return [turn["content"] for name in names if name in row for turn in row[name]]


def _exact(row: dict[str, Any]) -> str:
    return json.dumps(list(row.values()), ensure_ascii=False)


def _near(row: dict[str, Any]) -> str:
    """A row's text without case, punctuation and spacing."""
    return re.sub(r"[\W_]+", " ", "\n".join(texts_of(row)).casefold()).strip()


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan", "none", "null")
    return value is None or (isinstance(value, float) and math.isnan(value))
