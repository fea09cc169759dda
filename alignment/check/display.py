"""What `align check` prints: samples with the learned tokens marked, counts of rows, findings, and the cost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

from alignment.check.findings import ERROR, NOTE, SEVERITIES, WARNING, Finding
from alignment.check.material import Material
from alignment.check.run import StageCheck, merged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GREEN, YELLOW, RED, DIM, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"
COLOUR_OF = {ERROR: RED, WARNING: YELLOW, NOTE: DIM}
SAMPLE_TOKENS = 160


def in_colour(stream: TextIO) -> bool:
    """Colours are for terminals, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def show_stage(check: StageCheck, samples: int, colour: bool) -> str:
    """One stage: its rows, a few samples, and what it will take."""
    lines = [f"== {check.stage} ({check.source})"]
    if check.material is None:
        return "\n".join([*lines, "  rows: not looked at"])
    lines += [f"  {line}" for line in count_rows(check.material)]
    lines += show_samples(check.material, samples, colour)
    return "\n".join([*lines, *check.costs])


def count_rows(material: Material) -> Iterator[str]:
    """Rows kept and dropped by reason, and rows of each split."""
    for account in material.rows.report.accounts:
        whole = f", the first of {material.rows.whole:,}" if account.split == "train" and material.rows.whole else ""
        yield f"{account}{whole}"
    yield from material.rows.report.notes
    parts = [f"{material.rows.count(name):,} {name}" for name in material.rows.splits]
    yield f"rows to use: {', '.join(parts)}"
    if sizes := material.token_counts():
        yield f"tokens a row: {sum(sizes) / len(sizes):.0f} on average, {material.longest} at most{material.estimated}"


def show_samples(material: Material, count: int, colour: bool) -> list[str]:
    """The first rows as token ids read back, with what is learned in colour or in [[...]]."""
    tokenizer, length, lines = material.tokenizer, material.get("max_length"), []
    for row in material.encoded[:count]:
        lines.append(f"-- row {row.row}, {len(row.ids)} tokens, {sum(row.learned[:length])} learned")
        lines.append(mark(row.ids[:length], row.learned[:length], tokenizer, colour))
    for pair in material.pairs[:count]:
        for name, ids in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            lines.append(f"-- row {pair.row}, {name}, {len(ids)} tokens")
            learned = [place >= len(pair.prompt) for place in range(len(ids))]
            lines.append(mark(ids[:length], learned[:length], tokenizer, colour))
    return lines


def mark(ids: Sequence[int], learned: Sequence[bool], tokenizer: PreTrainedTokenizerBase, colour: bool) -> str:
    """Tokens as text; runs that carry loss are green, or stand in [[...]]. Long rows are cut, and say so."""
    before, after = (GREEN, PLAIN) if colour else ("[[", "]]")
    pieces = []
    for kept, run in groupby(zip(ids[:SAMPLE_TOKENS], learned, strict=False), key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in run])
        pieces.append(f"{before}{text}{after}" if kept else text)
    more = f" ... {len(ids) - SAMPLE_TOKENS} more tokens" if len(ids) > SAMPLE_TOKENS else ""
    return "".join(pieces) + more


def show_findings(findings: Sequence[Finding], colour: bool) -> str:
    """Findings, errors first, each with its mend."""
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return "\n".join(show_finding(finding, colour) for finding in ordered)


def show_finding(finding: Finding, colour: bool) -> str:
    head = f"{finding.severity}: {finding.stage}: {finding.what}"
    if colour:
        head = f"{COLOUR_OF[finding.severity]}{head}{PLAIN}"
    parts = [("got", finding.got), ("expected", finding.expected), ("fix", finding.fix)]
    return "\n".join([head, *(f"  {label + ':':10}{value}" for label, value in parts if value is not None)])


def summary(checks: Sequence[StageCheck]) -> str:
    """One line: how many of each severity."""
    found = merged(checks)
    counts = {severity: sum(one.severity == severity for one in found) for severity in SEVERITIES}
    stages = f"{len(checks)} stage{'s' * (len(checks) != 1)} checked"
    return f"{stages}: {counts[ERROR]} errors, {counts[WARNING]} warnings, {counts[NOTE]} notes"
