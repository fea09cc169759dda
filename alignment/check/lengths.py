"""Check encoded rows: truncation, empty loss masks, pairs that do not differ, room for completions."""

from __future__ import annotations

from collections.abc import Iterator

from alignment.check.findings import Finding, by_share, error, note
from alignment.check.material import Material
from alignment.check.template import marks_replies
from alignment.data.tokenizing.encoding import Encoded, Refused


def check_refused(refused: list[Refused]) -> Iterator[Finding]:
    """Report rows that the chat template refuses."""
    if refused:
        yield error(
            "the chat template refuses rows of the data",
            got=f"{len(refused)} rows, first row {refused[0].row}: {refused[0].reason}",
            expected="conversations that the template accepts",
            fix="correct these rows, or use a template that accepts them",
        )


def check_masks(material: Material) -> Iterator[Finding]:
    """Report conversations without a learned token."""
    if not material.encoded or not marks_replies(material):
        return  # without markers no row has learned tokens: check_template reports it
    empty = [row.row for row in material.encoded if not any(row.learned)]
    if empty:
        yield error(
            "rows have an empty loss mask",
            got=f"{len(empty)} of {len(material.encoded)} sampled rows, first row {empty[0]}",
            expected="at least one learned token per row",
            fix="correct the template's generation block: it is empty for these rows",
        )


def check_truncation(material: Material) -> Iterator[Finding]:
    """Report conversations cut by max_length, and those with no learned token left."""
    length = material.get("max_length")
    if length is None or material.get("packing") or not material.encoded:
        return
    rows, limit = material.encoded, material.options.truncated
    cut = [row for row in rows if len(row.ids) > length]
    lost = [row for row in cut if not any(_kept(row, length, material.get("truncation_mode")))]
    longest = max(len(row.ids) for row in rows)
    if cut:
        yield by_share(
            len(cut) / len(rows),
            limit,
            "max_length truncates rows",
            got=f"{len(cut)} of {len(rows)} sampled rows ({len(cut) / len(rows):.1%}) have more than {length} "
            f"tokens, up to {longest}{material.estimated}",
            expected=f"at most {limit:.0%} (--max_truncated)",
            fix=f"max_length: {longest}, or drop long rows (max_characters)",
        )
    if lost:
        yield by_share(
            len(lost) / len(rows),
            limit,
            "replies are cut off before their first token: TRL silently drops such rows",
            got=f"{len(lost)} of {len(rows)} sampled rows, at max_length {length}{material.estimated}",
            expected="at least one learned token per row",
            fix=f"max_length: {longest}, or shorten the prompts",
        )


def _kept(row: Encoded, length: int, mode: str | None) -> list[bool]:
    """Return the loss mask of a row after truncation."""
    return row.learned[-length:] if mode == "keep_end" else row.learned[:length]


def check_pairs(material: Material) -> Iterator[Finding]:
    """Report pairs of equal replies, pairs beyond max_length, and pairs that are equal up to max_length."""
    length, pairs, limit = material.get("max_length"), material.pairs, material.options.truncated
    if not pairs:
        return
    longest = max(len(ids) for pair in pairs for ids in (pair.chosen, pair.rejected))
    same = [pair for pair in pairs if pair.chosen == pair.rejected]
    if same:
        yield error(
            "chosen and rejected have the same tokens",
            got=f"{len(same)} of {len(pairs)} sampled pairs, first row {same[0].row}",
            expected="replies that differ after the template is applied",
            fix="delete these pairs: they teach nothing",
        )
    if length is None:
        return
    long = [pair for pair in pairs if max(len(pair.chosen), len(pair.rejected)) > length]
    alike = [pair for pair in long if pair not in same and pair.chosen[:length] == pair.rejected[:length]]
    dropped = material.facts.drops_long_rows
    if long:
        share = len(long) / len(pairs)
        yield by_share(
            share,
            limit,
            "TRL drops pairs longer than max_length" if dropped else "max_length truncates pairs",
            got=f"{len(long)} of {len(pairs)} sampled pairs ({share:.1%}) have more than {length} tokens, up to "
            f"{longest}{material.estimated}",
            expected=f"at most {limit:.0%} (--max_truncated)",
            fix=f"max_length: {longest}, or drop long pairs (max_characters)",
        )
    if alike and not dropped:
        yield by_share(
            len(alike) / len(pairs),
            limit,
            "chosen and rejected differ only beyond max_length",
            got=f"{len(alike)} of {len(pairs)} sampled pairs have equal first {length} tokens{material.estimated}",
            expected="pairs that differ within max_length",
            fix=f"max_length: {longest}, or delete these pairs",
        )


def check_prompts(material: Material) -> Iterator[Finding]:
    """Report prompts that leave no room for a completion in the model's context."""
    context, room = material.origin.context, material.get("max_completion_length", 0)
    if context is None or not material.encoded:
        return
    long = [row for row in material.encoded if len(row.ids) + room > context]
    if long:
        rows, longest = len(material.encoded), max(len(row.ids) for row in long)
        share = len(long) / rows
        yield by_share(
            share,
            material.options.truncated,
            "prompts leave no room for a completion: they are dropped",
            got=f"{len(long)} of {rows} sampled prompts ({share:.1%}), up to {longest} tokens, "
            f"with max_completion_length {room}{material.estimated}",
            expected=f"prompt and completion within the model's context of {context} tokens",
            fix="reduce max_completion_length, or use shorter prompts",
        )


def check_sampled(material: Material) -> Iterator[Finding]:
    """Note how many of the training rows were tokenized."""
    sampled, rows = len(material.encoded) + len(material.pairs), material.rows.count("train")
    if 0 < sampled < rows:
        yield note(f"tokens were checked in {sampled:,} of {rows:,} training rows, evenly spread (--sample)")
