"""The card of an AI judge on the page: figures, each with a sentence on how to read it, a chart and tables."""

from typing import Any

from alignment.report.charts.plots import Estimate
from alignment.report.charts.reward_figures import reliability_figures, share_table, share_text
from alignment.report.labels import number, p_text, stage_name
from reward_models.card.policy_gain import inherited_text

UNKNOWN = "unknown"
NAMED = 3  # words found that are named before the table of all
AGREEMENT = "How often the judge prefers the reply that gold prefers. 50% is chance; a tie counts half."
CONSISTENCY = "How often the verdict stays when the replies change places; near 100% if the judge reads them."
POSITION = "How far beyond 50% the reply shown first is preferred. 0: no bias."
ECE = "Mean distance of the judge's confidence from its agreement with gold. 0: calibrated; few pairs alone give more."
BRIER = "Mean squared error of the judge's probability. 0: always sure and right; 0.25: no better than 50% each time."


def judge_section(stage: str, card: dict) -> dict:
    """The facts, readings, charts and tables of a judge's card; figures that the card lacks are "unknown"."""
    words = (card.get("words") or {}).get("found") or []
    tables = [
        _agreement_table(card, key, head) for key, head in (("by_principle", "principle"), ("by_family", "family"))
    ]
    return {
        "title": stage_name(stage),
        "facts": _facts(card),
        "rows": [{"name": name, "value": value, "reading": reading} for name, value, reading in _readings(card)],
        "figures": _reliability(card.get("calibration")),
        "tables": [table for table in tables if table],
        "words": [
            {"name": ", ".join(one["words"]), "value": points_text(one), "p": p_text(one["p"]), "n": one["n"]}
            for one in words
        ],
    }


def _facts(card: dict) -> list[tuple[str, str]]:
    judges = card.get("judges") or []
    facts = [
        ("judge" if len(judges) == 1 else "judges, whose mean counts", ", ".join(judges) or None),
        ("pairs judged", f"{card.get('n') or 0:,}"),
        ("pairs with a gold preference", f"{card['gold']:,}" if "gold" in card else None),
    ]
    return [(label, value) for label, value in facts if value]


def _readings(card: dict) -> list[tuple[str, str, str]]:
    """(figure, its value, how to read it) of each figure of a card."""
    calibration = card.get("calibration") or {}
    return [
        ("agreement with gold", _share(card.get("agreement")), AGREEMENT),
        ("consistency", _share(card.get("consistency")), CONSISTENCY),
        ("position bias", points_text(card.get("position_bias")), POSITION),
        ("length bias", points_text(card.get("length_bias")), _length_reading(card)),
        ("words", _words(card.get("words") or {}), _words_reading(card)),
        ("calibration (ECE)", _known(calibration.get("ece")), ECE),
        ("Brier score", _known(calibration.get("brier")), BRIER),
        _control(card),
        *_inherited(card.get("inherited")),
    ]


def _inherited(found: dict | None) -> list[tuple[str, str, str]]:
    """What a policy inherited, of verdicts and of gaps, if the pairs are those of two checkpoints."""
    if not found:
        return []
    gains = [number(found[key], 2, True) for key in ("judge_gain", "gold_gain", "value", "low", "high")]
    value = UNKNOWN if found["value"] is None else "{2} [{3}, {4}]".format(*gains)
    reading = (
        "Mean gap between the two replies in standard deviations: judge {0}, gold {1}. Above 0: the judge's alone."
    )
    return [
        ("inherited: verdicts", points_text(found["wins"]), inherited_text(found)),
        ("inherited: gaps", value, reading.format(*gains)),
    ]


def _length_reading(card: dict) -> str:
    words = card.get("typical_words")
    longer = "longer" if words is None else f"{number(words, 1)} words longer"
    if card.get("controlled_for_gold"):
        return f"How far beyond 50% a reply is preferred that is {longer}, gold being equal. 0: no bias."
    return f"How far beyond 50% a reply is preferred that is {longer}."


def _words(words: dict) -> str:
    found, tested = words.get("found") or [], words.get("tested")
    if tested is None:
        return UNKNOWN
    if not tested:
        return "none tested: no word is in one reply alone often enough"
    if not found:
        return f"none found, {tested:,} tested"
    named = [f"“{', '.join(one['words'])}” {points_text(one)}" for one in found[:NAMED]]
    return f"{len(found):,} found, {tested:,} tested: {'; '.join(named)}{' ...' if len(found) > NAMED else ''}"


def _words_reading(card: dict) -> str:
    known = "gold and length" if card.get("controlled_for_gold") else "length"
    return (
        f"Words that the judge prefers or avoids beyond what {known} explain; a policy learns to write what it prefers."
    )


def _control(card: dict) -> tuple[str, str, str]:
    if card.get("controlled_for_gold"):
        reading = "The biases for length and words are those between replies of equal gold."
        return "controlled for gold", "yes", reading
    reading = "Gold is unknown: what looks like a bias for length or words may be a preference for better replies."
    return "controlled for gold", "no", reading


def _agreement_table(card: dict, key: str, head: str) -> dict | None:
    rows = [row for row in card.get(key) or [] if row["value"] is not None]
    shares = [
        (Estimate(row["name"] or "no principle", row["value"], row["low"], row["high"]), row["n"]) for row in rows
    ]
    table = share_table(shares)
    return table and table | {"head": head, "caption": f"Agreement with gold by {head}"}


def _reliability(found: dict | None) -> list[dict]:
    """The reliability diagram of a judge's confidence; the intervals take its pairs as independent."""
    bins = [group | {"se": _standard_error(group)} for group in (found or {}).get("bins") or []]
    caption = (
        "How often the reply that the judge prefers is the one that gold prefers, by the judge's probability for it."
    )
    return reliability_figures((found or {}) | {"bins": bins}, "judge", "judge's probability", "agreement", caption)


def _standard_error(group: dict) -> float | None:
    share, n = group["accuracy"], group["n"]
    return (share * (1 - share) / (n - 1)) ** 0.5 if n > 1 else None


def _share(one: dict[str, Any] | None) -> str:
    if not one or one["value"] is None:
        return UNKNOWN
    return share_text(Estimate("", one["value"], one["low"], one["high"]))


def points_text(one: dict[str, Any] | None) -> str:
    """A share beyond a half with its interval in points, `+16.1 points [+6.6, +24.4]`."""
    if not one or one["value"] is None:
        return UNKNOWN
    value, low, high = (
        number(None if one[key] is None else 100 * one[key], 1, True) for key in ("value", "low", "high")
    )
    return f"{value} points" + ("" if one["low"] is None else f" [{low}, {high}]")


def _known(value: float | None) -> str:
    return UNKNOWN if value is None else number(value)
