"""Check encoded rows: truncation, empty loss masks, pairs that do not differ, room for completions."""

from __future__ import annotations

from collections.abc import Iterator

from alignment.check.findings import Finding, by_share, error, note
from alignment.check.material import Material
from alignment.data.reading.row_formats import CONVERSATIONS
from alignment.data.tokenizing.encoding import Encoded, Refused
from alignment.data.tokenizing.length_advice import completion_fix, length_fix


def check_refused(refused: list[Refused], sampled: int) -> Iterator[Finding]:
    """Report rows that the chat template refuses."""
    if refused:
        yield error(
            "the chat template refuses rows of the data",
            got=f"{len(refused)} of {sampled} sampled rows, first row {refused[0].row}: {refused[0].reason}",
            expected="conversations that the template accepts",
            fix="correct these rows, or use a template that accepts them",
        )


def check_masks(material: Material) -> Iterator[Finding]:
    """Report conversations without a learned token."""
    if not material.marks:
        return  # without markers no row has learned tokens, or all are learned
    empty = [row.row for row in material.encoded if not any(row.learned)]
    if empty:
        yield error(
            "rows have an empty loss mask",
            got=f"{len(empty)} of {len(material.encoded)} sampled rows, first row {empty[0]}",
            expected="at least one learned token per row",
            fix="correct the template's generation block: it is empty for these rows",
        )


def kept_length(material: Material) -> int | None:
    """Return the largest length that rows can have: max_length, or the model's context if that is shorter."""
    return min((length for length in (material.get("max_length"), material.origin.context) if length), default=None)


def fix_lengths(material: Material) -> str:
    """Return the settings with which no row that was looked at is too long."""
    return length_fix(material.lengths, material.get("max_length"), material.origin.context)


def check_truncation(material: Material) -> Iterator[Finding]:
    """Report conversations that are cut, and those with no learned token left."""
    length, packed = kept_length(material), bool(material.get("packing"))
    if length is None or not material.encoded or (packed and material.get("packing_strategy") != "bfd"):
        return
    rows, limit = material.encoded, material.options.truncated
    cut = [row for row in rows if len(row.ids) > length]
    lost = [row for row in cut if not any(_kept(row, length, material.get("truncation_mode")))]
    longest = max(len(row.ids) for row in rows)
    if cut:
        yield by_share(
            len(cut) / len(rows),
            limit,
            "packing truncates rows" if packed else "max_length truncates rows",
            got=f"{len(cut)} of {len(rows)} sampled rows ({len(cut) / len(rows):.1%}) have more than {length} "
            f"tokens, up to {longest}{material.estimated}",
            expected=f"at most {limit:.0%} (--max_truncated)",
            fix=fix_lengths(material),
        )
    if lost:
        what = "such rows are packed for nothing" if packed else "TRL silently drops such rows"
        yield by_share(
            len(lost) / len(rows),
            limit,
            f"replies are cut off before their first token: {what}",
            got=f"{len(lost)} of {len(rows)} sampled rows, at max_length {length}{material.estimated}",
            expected="at least one learned token per row",
            fix=fix_lengths(material),
        )


def _kept(row: Encoded, length: int, mode: str | None) -> list[bool]:
    """Return the loss mask of a row after truncation."""
    return row.learned[-length:] if mode == "keep_end" else row.learned[:length]


def check_pairs(material: Material) -> Iterator[Finding]:
    """Report pairs of equal replies, pairs that are too long, and pairs that are equal up to max_length."""
    length, pairs, limit = kept_length(material), material.pairs, material.options.truncated
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
    filled = 0 if dropped else sum(len(pair.prompt) >= length for pair in pairs)
    if long:
        share = len(long) / len(pairs)
        yield by_share(
            share,
            limit,
            "TRL drops pairs longer than max_length" if dropped else "max_length truncates pairs",
            got=f"{len(long)} of {len(pairs)} sampled pairs ({share:.1%}) have more than {length} tokens, up to "
            f"{longest}{material.estimated}" + (f"; {filled} are dropped, as the prompt fills it" if filled else ""),
            expected=f"at most {limit:.0%} (--max_truncated)",
            fix=fix_lengths(material),
        )
    if alike and not dropped:
        yield by_share(
            len(alike) / len(pairs),
            limit,
            "chosen and rejected differ only beyond max_length",
            got=f"{len(alike)} of {len(pairs)} sampled pairs have equal first {length} tokens{material.estimated}",
            expected="pairs that differ within max_length",
            fix=f"{fix_lengths(material)}; or delete these pairs",
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
            fix=completion_fix(material.lengths, room, context),
        )


def check_rows_per_reply(material: Material) -> Iterator[Finding]:
    """Note that conversations become several rows."""
    sampled = material.sampled
    if material.kind == CONVERSATIONS and len(material.encoded) > sampled:
        yield note(
            "the chat template changes earlier turns: conversations are trained in a row per reply",
            got=f"{sampled:,} sampled conversations become {len(material.encoded):,} rows",
        )
