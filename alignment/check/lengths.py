"""Checks of encoded rows: nothing learned is cut off, no row without loss, pairs differ, replies have room."""

from __future__ import annotations

from collections.abc import Iterator

from alignment.check.findings import Finding, by_share, error, note
from alignment.check.material import Material
from alignment.check.template import marks_replies
from alignment.data.tokenizing.encoding import Encoded, Refused


def check_refused(refused: list[Refused]) -> Iterator[Finding]:
    """Rows that the template raises for."""
    if refused:
        yield error(
            "the chat template refuses rows of the data",
            got=f"{len(refused)} rows, the first is row {refused[0].row}: {refused[0].reason}",
            expected="conversations that the template can write",
            fix="correct those rows, or take a template that writes them",
        )


def check_masks(material: Material) -> Iterator[Finding]:
    """Every conversation has a token that carries loss."""
    if not material.encoded or not marks_replies(material):
        return  # without markers no row has any, which is a finding of its own
    empty = [row.row for row in material.encoded if not any(row.learned)]
    if empty:
        yield error(
            "rows carry no loss: their loss mask is empty",
            got=f"{len(empty)} of {len(material.encoded)} rows looked at, the first is row {empty[0]}",
            expected="a token to learn in every row",
            fix="look at the template's generation block: for these rows it writes nothing",
        )


def check_truncation(material: Material) -> Iterator[Finding]:
    """Conversations fit max_length; of those that do not, a reply is left to learn."""
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
            got=f"{len(cut)} of {len(rows)} rows looked at ({len(cut) / len(rows):.1%}) have more than {length} "
            f"tokens, up to {longest}{material.estimated}",
            expected=f"at most {limit:.0%} of them (--max_truncated)",
            fix=f"max_length: {longest}, or leave the long rows out (max_characters)",
        )
    if lost:
        yield by_share(
            len(lost) / len(rows),
            limit,
            "replies are cut off before their first token: trl drops such rows without a word",
            got=f"{len(lost)} of {len(rows)} rows looked at, at max_length {length}{material.estimated}",
            expected="a token to learn in every row",
            fix=f"max_length: {longest}, or shorten the prompts",
        )


def _kept(row: Encoded, length: int, mode: str | None) -> list[bool]:
    return row.learned[-length:] if mode == "keep_end" else row.learned[:length]


def check_pairs(material: Material) -> Iterator[Finding]:
    """Pairs fit max_length, and differ in what fits."""
    length, pairs, limit = material.get("max_length"), material.pairs, material.options.truncated
    if not pairs:
        return
    longest = max(len(ids) for pair in pairs for ids in (pair.chosen, pair.rejected))
    same = [pair for pair in pairs if pair.chosen == pair.rejected]
    if same:
        yield error(
            "chosen and rejected are the same tokens",
            got=f"{len(same)} of {len(pairs)} pairs looked at, the first is row {same[0].row}",
            expected="replies that still differ when the template has written them",
            fix="delete the pairs: they teach nothing",
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
            "pairs longer than max_length are dropped by trl" if dropped else "max_length truncates pairs",
            got=f"{len(long)} of {len(pairs)} pairs looked at ({share:.1%}) have more than {length} tokens, up to "
            f"{longest}{material.estimated}",
            expected=f"at most {limit:.0%} of them (--max_truncated)",
            fix=f"max_length: {longest}, or leave the long pairs out (max_characters)",
        )
    if alike and not dropped:
        yield by_share(
            len(alike) / len(pairs),
            limit,
            "chosen and rejected differ only beyond max_length",
            got=f"{len(alike)} of {len(pairs)} pairs are equal in their first {length} tokens{material.estimated}",
            expected="pairs that differ in what is trained on",
            fix=f"max_length: {longest}, or leave these pairs out",
        )


def check_prompts(material: Material) -> Iterator[Finding]:
    """Prompts leave room for a completion in the model's context."""
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
            got=f"{len(long)} of {rows} prompts looked at ({share:.1%}), up to {longest} tokens, "
            f"and max_completion_length {room}{material.estimated}",
            expected=f"together at most {context} tokens, the model's context",
            fix="shorten max_completion_length, or take shorter prompts",
        )


def check_sampled(material: Material) -> Iterator[Finding]:
    looked_at, rows = len(material.encoded) + len(material.pairs), material.rows.count("train")
    if 0 < looked_at < rows:
        yield note(f"tokens were looked at in {looked_at} of {rows} training rows, spread over all (--sample)")
