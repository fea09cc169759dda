"""A judge's card as files: judge_card.json for programs, judge_card.md for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_json, write_text
from alignment.durable.unwritable import make_folder
from alignment.text import decimal, markdown_table
from reward_models.card.judge_card import estimate_text
from reward_models.card.policy_gain import inherited_text

CARD_FILE, CARD_TEXT = "judge_card.json", "judge_card.md"


def write_judge_card(folder: Path, card: Mapping[str, Any], title: str) -> None:
    """Write both files into a folder, replacing earlier ones."""
    make_folder(folder)
    write_json(folder / CARD_FILE, card)
    write_text(folder / CARD_TEXT, f"# Judge's card of {title}\n\n{judge_card_markdown(card)}\n")


def judge_card_markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown, without the sections for which it has no figures."""
    if not card["n"]:
        return "The judge has no opinion on any pair."
    parts = [_summary(card)]
    for key, head in (("by_principle", "principle"), ("by_family", "family")):
        if card.get(key):
            rows = [[one["name"], one["n"], estimate_text(one, sign=False)] for one in card[key]]
            parts.append(f"**Agreement by {head}**\n\n{markdown_table([head, 'pairs', 'agreement'], rows)}")
    parts.append(_biases(card))
    if card["words"]["found"]:
        rows = [
            [", ".join(one["words"]), one["n"], estimate_text(one), f"{one['p']:.1g}"] for one in card["words"]["found"]
        ]
        parts.append(f"**Words**\n\n{markdown_table(['word', 'pairs', 'beyond a half', 'p'], rows)}")
    if card.get("calibration", {}).get("bins"):
        parts.append(_calibration(card["calibration"]))
    if card.get("inherited"):
        parts.append(_inherited(card["inherited"]))
    return "\n\n".join(parts)


def _summary(card: Mapping[str, Any]) -> str:
    text = f"{card['n']} pairs, each judged in both positions; intervals are 95%. "
    if "agreement" in card:
        text += (
            f"Agreement with gold **{estimate_text(card['agreement'], sign=False)}** on {card['gold']} pairs; a tie "
        )
        text += "counts half. "
    return f"{text}Both positions agree on {estimate_text(card['consistency'], sign=False)} of the pairs."


def _biases(card: Mapping[str, Any]) -> str:
    given = "gold being equal" if card["controlled_for_gold"] else "not controlled for gold"
    rows = [["position", "share of verdicts for the reply shown first", estimate_text(card["position_bias"])]]
    if card["length_bias"]["value"] is not None:
        meaning = f"a reply longer by {decimal(card['typical_words'], 1)} words is preferred, {given}"
        rows.append(["length", meaning, estimate_text(card["length_bias"])])
    words, known = card["words"], "gold and length" if card["controlled_for_gold"] else "length"
    number = len(words["found"]) or "none"
    text = f"Of {words['tested']} words tested, {number} predict the preference beyond {known}."
    return f"**Biases**\n\n{markdown_table(['bias', 'meaning', 'beyond a half'], rows)}\n\n{text}"


def _calibration(found: Mapping[str, Any]) -> str:
    text = f"**Calibration**: expected calibration error {found['ece']:.3f}, Brier score {found['brier']:.3f}."
    rows = [
        [f"{one['low']:.2f} to {one['high']:.2f}", one["n"], f"{one['confidence']:.3f}", f"{one['accuracy']:.3f}"]
        for one in found["bins"]
    ]
    return f"{text}\n\n{markdown_table(['confidence', 'pairs', 'mean', 'agreement'], rows)}"


def _inherited(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return f"**Inherited by the policy**: {inherited_text(found)}"
    text = f"**Inherited by the policy**: {inherited_text(found)} Difference: {estimate_text(found['wins'])}."
    if found["value"] is None:
        return text
    judge, gold = (decimal(found[key], 2, sign=True) for key in ("judge_gain", "gold_gain"))
    return f"{text} Mean gap in standard deviations: judge {judge}, gold {gold}; difference {estimate_text(found)}."
