"""Check the rows: dropped, duplicate and leaked rows, unread columns, scores, and special tokens in the text."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unicodedata import category

from datasets import DatasetDict

from alignment.check.findings import Finding, by_share, error, from_user_error, note, warning
from alignment.check.material import Material
from alignment.data.preparing.filters import canonical_rows
from alignment.data.reading.conversations import BEYOND_TEXT
from alignment.data.reading.formats import KINDS, READ_COLUMNS
from alignment.data.reading.row_formats import MARGIN, PARTS, SYSTEMS, UNWANTED
from alignment.data.reading.suggestions import written
from alignment.data.words import words
from alignment.errors import UserError, nearest
from alignment.stages import CLASSIFIER, DATA, TOKENIZER
from alignment.stages.keys.label_column import trained_pairs
from reward_models.card.pairwise import GOLD_COLUMNS

SCORES = re.compile(r"label|score|reward|margin|rating|gold")
# Share of the training text in exact duplicates from which they are reported. Harm is known from a tenth of the tokens
# on (a few rows, 100 times each: Hernandez et al. 2022, arXiv 2205.10487); four epochs of all rows cost almost nothing
# (Muennighoff et al. 2023, arXiv 2305.16264).
REPEATED = 0.05
# Prompts are no targets: each occurrence gets new completions. Half are repeats in a file that was joined to itself.
REPEATED_PROMPTS = 0.5
# A sign before a number (12 - 9), or any other character that may be a symbol.
SIGNS = re.compile(r"([-*/^%](?=\s*\d))|([^\w\s])")
SYMBOLS = ("Sm", "Sc", "So")  # Unicode's operators, currencies and pictographs
# Problem and fix for reasons to drop a row, in more words than formats.py's.
REASONS = {
    "empty reply": ("assistant turns are empty", "delete these rows, or fill the turns in"),
    "chosen and rejected are the same": ("chosen and rejected are identical", "delete these pairs: they teach nothing"),
    "also in the validation split": (
        "held-out rows are in the training rows",
        "remove them from the data, or split the rows with eval_share, which keeps prompts together",
    ),
    "also in the card split": (
        "rows of the reward model's test split are in the training rows",
        "remove them from the data, or set another dataset_card_split",
    ),
    UNWANTED: (
        "replies are labelled as unwanted",
        "train on the others alone with --max_dropped 1, or, if `label` does not judge the reply, rename it: "
        "columns: {label: data_label}",
    ),
    "chosen and rejected answer different prompts": (
        "the prompts of pairs differ",
        "pair replies to the same conversation",
    ),
}


def check_dropped(material: Material) -> Iterator[Finding]:
    """Report each reason for dropped rows, with its count."""
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
                expected=f"at most {material.options.dropped:.0%} per reason (--max_dropped)",
                fix=fix,
            )


def check_columns(material: Material) -> Iterator[Finding]:
    """Report columns that nothing reads, above all misspelt ones and those that change the meaning of a row."""
    for account in material.rows.report.accounts:
        if account.unread:
            counts = ", ".join(f"{name} in {count:,}" for name, count in sorted(account.unread.items()))
            first = min(account.unread)
            ours = first.strip().lower()
            reads = (
                "" if first == ours or ours not in (*PARTS, *SYSTEMS) else f"`{written({first: ours})}` reads it; or "
            )
            yield warning(
                f"columns that change the meaning of a row are not read: {', '.join(sorted(account.unread))}",
                got=f"{account.source}, split {account.source_split}: rows made of {account.format}; {counts} rows",
                expected="their text in the conversation",
                fix=f"{reads}write it into the messages, or rename the column if it is not needed: "
                f"{written({first: f'data_{ours}'})}",
            )
        yield from map(note, account.notes)
    if material.kind == "prompts":
        return  # reward functions receive all columns
    formats = {name for account in material.rows.report.accounts for name in account.format.split(", ")}
    read = {*formats, *BEYOND_TEXT, *GOLD_COLUMNS, *KINDS[material.kind]}
    if material.facts.checkpoint == CLASSIFIER:
        read |= {MARGIN, *filter(None, [material.get("card_subset")])}
    read |= {*filter(None, [material.get("label_column")])}
    columns, known = material.train.column_names, read | READ_COLUMNS
    unread = [name for name in columns if name not in read]
    for name in unread:
        near = [] if name in READ_COLUMNS else nearest(name.lower(), sorted(known - set(columns)), cutoff=0.85)
        if near:
            yield warning(
                f"the column {name!r} is not read",
                got=", ".join(columns),
                fix=f"columns: {{{name}: {near[0]}}}, if you mean {near[0]!r}",
            )
    if unread:
        yield note(f"columns not read: {', '.join(unread)}")


def check_duplicates(material: Material) -> Iterator[Finding]:
    """Report exact duplicates if they are a large part of the training text; a stage's rows count fewer ones too."""
    if material.facts.checkpoint == TOKENIZER:
        return  # duplicates do not harm a vocabulary
    accounts = [account for account in material.rows.report.accounts if account.split == "train"]
    repeated = sum(account.duplicates or 0 for account in accounts)
    read = sum(account.read for account in accounts)  # duplicates are counted before the mix and any limit, too
    share = material.rows.report.repeated_text
    limit = REPEATED_PROMPTS if material.kind == "prompts" else REPEATED
    if share >= limit:
        yield warning(
            "training rows are exact duplicates",
            got=f"{repeated:,} of {read:,} rows read for training, {share:.1%} of the text, kept",
            expected=f"less than {limit:.0%} of the text",
            fix="set deduplicate: exact to drop them",
        )


def check_leaks(material: Material) -> Iterator[Finding]:
    """Report held-out rows that are training rows, or near-duplicates of training rows."""
    if material.facts.checkpoint == TOKENIZER:
        return
    splits = sorted(material.rows.splits.keys() - {"train"})
    rows_of = {split: list(canonical_rows(material.rows.splits[split], material.kind)) for split in splits}
    sought = {_words(row) for rows in rows_of.values() for row in rows}
    # Words are compared first: few rows share them, and the other comparisons take longer.
    suspects = [row for row in canonical_rows(material.train, material.kind) if _words(row) in sought]
    exact, near = {_exact(row) for row in suspects}, {_near(row) for row in suspects}
    near.discard(_near({"text": ""}))  # texts without words are like no other
    for split, held_out in rows_of.items():
        same = [row for row in held_out if _exact(row) in exact]
        alike = [row for row in held_out if _near(row) in near and _exact(row) not in exact]
        # Short generated documents coincide by chance; conversations do not.
        allowed = material.options.leaked_text if material.kind == "text" else 0
        expected = f"at most {allowed:.0%} of the held-out text" if allowed else "none"
        fix = "remove them from the training data, or split the rows with eval_share, which keeps prompts together"
        for report, found, what, how in (
            (error, same, "held-out rows are in the training rows", ""),
            (
                warning,
                alike,
                "held-out rows are near-duplicates of training rows",
                ", up to case, space and punctuation",
            ),
        ):
            share = _text_share(found, held_out)
            got = f"{len(found)} of {len(held_out)} rows of the {split} split, {share:.1%} of its text{how}"
            if found and (not allowed or share > allowed):
                yield report(what, got=got, expected=expected, fix=fix)
            elif found:
                yield note(what, got=got)


def _text_share(rows: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of the characters of all rows that some of the rows have."""
    size, total = (sum(len(text) for row in some for text in texts_of(row)) for some in (rows, whole))
    return size / max(total, 1)


def check_scores(material: Material) -> Iterator[Finding]:
    """Report scores that are missing in some rows: of a reward model's pairs, and those that reward functions may read.

    Nothing reads other columns, whatever their names.
    """
    columns = material.train.column_names
    if material.facts.checkpoint == CLASSIFIER:
        report, names = error, [name for name in (MARGIN, *GOLD_COLUMNS) if name in columns]
    elif material.kind == "prompts":
        report, names = (
            warning,
            [name for name in columns if SCORES.search(name.lower()) and _is_number(material, name)],
        )
    else:
        return
    for name in names:
        values = list(material.train[name])
        missing = sum(map(_is_nothing, values))
        if missing:
            yield report(
                f"the column {name!r} has rows without a number",
                got=f"{missing} of {len(values)} rows are NaN or empty",
                expected="a label or score in every row",
                fix="fill in the numbers, or delete these rows",
            )


def _is_number(material: Material, name: str) -> bool:
    return str(getattr(material.train.features[name], "dtype", "")).startswith(("int", "uint", "float", "double"))


def check_labels(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Report KTO data in which all labels are the same."""
    labels = {bool(row["label"]) for row in rows}
    if len(labels) == 1:
        yield error(
            "all labels are the same",
            got=f"{len(rows)} rows with label {labels.pop()}",
            expected="desirable and undesirable completions",
            fix="add rows with the other label, or check which column is read as label",
        )


def check_kto(material: Material) -> Iterator[Finding]:
    """Check the labels of KTO's training rows."""
    yield from check_labels(list(canonical_rows(material.train, material.kind)))


def check_label_column(material: Material) -> Iterator[Finding]:
    """Report pairs without a probability in the column that `label_column` names."""
    label, reads_margin = material.get("label_column"), material.facts.checkpoint == CLASSIFIER
    if label is None or material.facts.checkpoint == DATA:
        return
    splits = DatasetDict({name: rows for name, rows in material.rows.splits.items() if name != "card"})
    try:
        trained_pairs(splits, label, *([MARGIN] if reads_margin else []))
    except UserError as mistake:
        yield from from_user_error(mistake)


def check_injected(material: Material) -> Iterator[Finding]:
    """Report text of the data that the template would turn into special tokens."""
    tokenizer = material.tokenizer
    added = (token for token in tokenizer.get_added_vocab() if len(token) > 2)
    special = sorted(token for token in {*tokenizer.all_special_tokens, *added} if token.strip())
    if not special:
        return
    pattern = re.compile("|".join(map(re.escape, special)))
    found: Counter[str] = Counter()
    rows = 0
    for row in canonical_rows(material.train, material.kind):
        tokens = set(pattern.findall("\n".join(texts_of(row))))
        found.update(tokens)
        rows += bool(tokens)
    if rows:
        what = "the text contains special tokens"
        got = ", ".join(f"{token!r} in {count} rows" for token, count in found.most_common(4))
        if material.kind == "text":
            yield note(what, got=f"{got}; documents keep them as text")
        else:
            yield warning(
                what,
                got=f"{got}: the template turns them into the real tokens",
                expected="text that can neither end nor begin a turn",
                fix="replace them in the data, for example with a space inside",
            )


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """Return all texts of a canonical row."""
    if "text" in row:
        return [row["text"]]
    names = ("messages", "prompt", "chosen", "rejected", "completion")
    return [turn["content"] for name in names if name in row for turn in row[name]]


def _exact(row: Mapping[str, Any]) -> str:
    """Return a row's values as text, for exact comparison."""
    return json.dumps(list(row.values()), ensure_ascii=False)


def _near(row: Mapping[str, Any]) -> str:
    """Return a row's text without case, punctuation and spacing: its words, and the signs that change its meaning."""
    found = SIGNS.findall("\n".join(texts_of(row)))
    signs = (sign or mark for sign, mark in found if sign or category(mark) in SYMBOLS)
    return f"{_words(row)}\n{' '.join(signs)}"


def _words(row: Mapping[str, Any]) -> str:
    return " ".join(words("\n".join(texts_of(row))))


def _is_nothing(value: Any) -> bool:
    """Whether a value is missing: empty, null or NaN, also as text."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan", "none", "null")
    return value is None or (isinstance(value, float) and math.isnan(value))
