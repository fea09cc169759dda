"""Format the output of `align check`: samples with learned tokens marked, row counts, findings, memory and time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

from alignment.check.findings import ERROR, NOTE, SEVERITIES, WARNING, Finding
from alignment.check.stage_check import StageCheck, merged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignment.check.material import Material

GREEN, YELLOW, RED, DIM, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"
COLOUR_OF = {ERROR: RED, WARNING: YELLOW, NOTE: DIM}
SAMPLE_TOKENS = 160


def in_colour(stream: TextIO) -> bool:
    """Whether to print colours: to a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def show_stage(check: StageCheck, samples: int, colour: bool) -> str:
    """Format one stage: row counts, a few samples, memory and time."""
    lines = [f"== {check.stage} ({check.source})"]
    if check.material is None:
        return "\n".join([*lines, "  rows: not checked", *check.costs])
    lines += [f"  {line}" for line in count_rows(check.material)]
    lines += show_samples(check.material, samples, colour)
    return "\n".join([*lines, *check.costs])


def count_rows(material: Material) -> Iterator[str]:
    """Yield lines with the rows kept, dropped by reason, and in each split."""
    for account in material.rows.report.accounts:
        whole = f", the first of {material.rows.whole:,}" if account.split == "train" and material.rows.whole else ""
        yield f"{account}{whole}"
    yield from material.rows.report.notes
    parts = [f"{material.rows.count(name):,} {name}" for name in material.rows.splits]
    yield f"rows used: {', '.join(parts)}"
    if sizes := material.token_counts():
        mean = sum(sizes) / len(sizes)
        rows, part = material.rows.count("train"), ""
        if material.sampled < rows:
            option = " (--sample)" if material.options.whole else ""  # before a run there is no such option
            part = f", in {material.sampled:,} of {rows:,} training rows, evenly spread{option}"
        yield f"tokens per row: {mean:.0f} on average, at most {material.longest}{material.estimated}{part}"


def show_samples(material: Material, count: int, colour: bool) -> list[str]:
    """Format the first rows decoded from their token ids, with learned tokens in colour or in [[...]]."""
    tokenizer, length, lines = material.origin.tokenizer, material.get("max_length"), []
    for row in material.encoded[:count]:
        lines.append(f"-- row {row.row}, {len(row.ids)} tokens, {sum(row.learned[:length])} learned")
        lines.append(mark(row.ids[:length], row.learned[:length], tokenizer, colour))
    for pair in material.pairs[:count]:
        for name, ids in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            lines.append(f"-- row {pair.row}, {name}, {len(ids)} tokens")
            learned = [position >= len(pair.prompt) for position in range(len(ids))]
            lines.append(mark(ids[:length], learned[:length], tokenizer, colour))
    return lines


def mark(ids: Sequence[int], learned: Sequence[bool], tokenizer: PreTrainedTokenizerBase, colour: bool) -> str:
    """Decode tokens, with learned ones in green or in [[...]]; long rows are cut, with the number of cut tokens."""
    before, after = (GREEN, PLAIN) if colour else ("[[", "]]")
    pieces = []
    for kept, run in groupby(zip(ids[:SAMPLE_TOKENS], learned, strict=False), key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in run])
        pieces.append(f"{before}{text}{after}" if kept else text)
    more = f" ... {len(ids) - SAMPLE_TOKENS} more tokens" if len(ids) > SAMPLE_TOKENS else ""
    return "".join(pieces) + more


def show_findings(findings: Sequence[Finding], colour: bool) -> str:
    """Format findings, errors first, each with its fix."""
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return "\n".join(show_finding(finding, colour) for finding in ordered)


def show_finding(finding: Finding, colour: bool) -> str:
    """Format one finding: severity, stage and problem, then got, expected and fix."""
    head = f"{finding.severity}: {finding.stage}: {finding.what}"
    if colour:
        head = f"{COLOUR_OF[finding.severity]}{head}{PLAIN}"
    parts = [("got", finding.got), ("expected", finding.expected), ("fix", finding.fix)]
    return "\n".join([head, *(f"  {label + ':':10}{value}" for label, value in parts if value is not None)])


def summary(checks: Sequence[StageCheck]) -> str:
    """Count stages, and findings of each severity, in one line."""
    found = merged(checks)
    counts = {severity: sum(finding.severity == severity for finding in found) for severity in SEVERITIES}
    numbers = ", ".join(_counted(counts[severity], severity) for severity in SEVERITIES)
    return f"{_counted(len(checks), 'stage')} checked: {numbers}"


def _counted(number: int, noun: str) -> str:
    """Write a number with its noun: `1 error`, `0 errors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
