"""A reward card on the page: numbers, charts and tables about a reward model's accuracy and calibration."""

import math

from alignment.report.charts.figure_files import estimate_rows, figure, panel_rows, series_rows
from alignment.report.charts.frontiers import fit_row, fitted_line
from alignment.report.charts.plots import (
    Estimate,
    Panel,
    Series,
    bar_chart,
    forest_axis,
    forest_row,
    line_chart,
    panel_chart,
)
from alignment.report.charts.scales import Scale
from alignment.report.labels import number, percent, stage_name
from eval.comparison.intervals import wilson

NORMAL_95 = 1.96
CELL_WIDTH, CELL_MARGIN = 190, 10


MARGIN = (
    "Pairs in fifths by the difference of their scores. Accuracy should rise: errors are expected at small margins; "
    "errors at large margins make it unsafe to train on the reward."
)
LENGTH = (
    "Pairs in fifths by how much longer the better answer is. A model that judges by length is right at one end only."
)
GAP = "Pairs grouped by the difference of the two answers' gold rewards; close pairs are hard."


def card_section(stage: str, card: dict) -> dict:
    """The numbers, charts and tables of a reward model's card; parts that the card lacks are left out."""
    curve = card.get("best_of_n") or []
    return {
        "title": stage_name(stage),
        "stage": stage,
        "facts": _facts(card),
        "figures": [
            *_accuracy_bars(card),
            *_reliability(card.get("calibration")),
            *_bars(card, "by_margin", "Accuracy by margin", "difference of the two scores", MARGIN),
            *_bars(card, "by_length", "Accuracy by length", "additional words of the better answer", LENGTH),
            *_bars(card, "by_gap", "Accuracy by gap in gold reward", "gap in gold reward", GAP),
            *_best_of_n(card),
        ],
        "subsets": subset_table(card.get("by_subset") or []),
        "best_of_n": [_curve_row(point) for point in curve],
        "fits": [fit_row(fit, curve[-1]["kl"] ** 0.5) for fit in card.get("best_of_n_fits") or []],
    }


def subset_table(rows: list[dict]) -> dict | None:
    """Accuracy per subset with a picture, the lowest first."""
    known = [row for row in rows if row["accuracy"] is not None]
    return share_table([(_share(row["name"], row["accuracy"], row["n"], 0), row["n"]) for row in known])


def share_table(shares: list[tuple[Estimate, int]]) -> dict | None:
    """Shares of pairs and their numbers as rows with a picture, the lowest share first; None without any."""
    if not shares:
        return None
    scale = Scale(0.0, 1.0, CELL_MARGIN, CELL_WIDTH - CELL_MARGIN)
    lines = [
        {"name": one.label, "n": n, "accuracy": share_text(one), "picture": forest_row(one, scale, 0.5)}
        for one, n in sorted(shares, key=lambda pair: pair[0].value)
    ]
    return {"rows": lines, "axis": forest_axis(scale)}


def share_text(share: Estimate) -> str:
    """A share with its interval, `50.0% [36.4%, 63.6%]`."""
    return f"{percent(share.value)} [{percent(share.low)}, {percent(share.high)}]"


def _facts(card: dict) -> list[tuple[str, str]]:
    """Labels and numbers at the top of a card."""
    found = card.get("calibration") or {}
    scores = card.get("scores") or {}
    gold = f", {card['left_out']} left out (gold rewards too close)" if card.get("left_out") else ""
    accuracy = percent(card.get("accuracy")) + (f" ± {percent(card['se'])}" if card.get("se") else "")
    facts = [
        ("pairs", f"{card['n']}{gold}" if card.get("n") else None),
        ("without a score", card.get("unscored") or None),
        ("accuracy", accuracy if card.get("n") else None),
        (
            f"preferring the {card.get('length_rule')} answer",
            percent(card.get("length_baseline")) if card.get("n") else None,
        ),
        ("calibration error (ECE)", found and number(found["ece"])),
        ("Brier score", found and number(found["brier"])),
        ("log loss", found and number(found["log_loss"])),
        ("scores", scores and f"{number(scores['mean'], 2)}, deviation {number(scores['std'], 2)}"),
        ("correlation with length", scores and number(scores["length_correlation"], 2, sign=True)),
    ]
    return [(label, value) for label, value in facts if value]


def _accuracy_bars(card: dict) -> list[dict]:
    lines = (("accuracy", "reward model"), ("length_baseline", f"the {card.get('length_rule', 'shorter')} answer"))
    bars = [
        _share(label, card[key], card.get("n"), index)
        for index, (key, label) in enumerate(lines)
        if card.get(key) is not None
    ]
    if not bars:
        return []
    caption = (
        f"The share of {card.get('n')} held-out pairs that the reward model ranks correctly, and the share that always "
        f"preferring the {card.get('length_rule', 'shorter')} answer ranks correctly; 0.5 is chance."
    )
    svg = bar_chart(bars, title=f"Accuracy on pairs. {caption}", x_label="", y_label="share of pairs", top=1.1)
    return [figure("Accuracy on pairs", caption, svg, estimate_rows(bars, "rule", "share of pairs"))]


def _reliability(found: dict | None) -> list[dict]:
    """A reliability diagram: accuracy by the confidence that the margins imply."""
    caption = "A margin m implies a probability of sigmoid(|m|) to be right."
    return reliability_figures(found, "reward model", "implied probability", "accuracy", caption)


def reliability_figures(found: dict | None, label: str, x_label: str, y_label: str, about: str) -> list[dict]:
    """A reliability diagram of confidence in [0.5, 1]; none without pairs.

    Args:
        found: {ece, bins: [{confidence, accuracy, n, se}]}.
        label: whose confidence it is.
        about: a sentence on the confidence.
    """
    bins = [group for group in (found or {}).get("bins") or [] if group["n"]]
    if found is None or not bins:
        return []
    halves = tuple(None if group["se"] is None else NORMAL_95 * group["se"] for group in bins)
    points = Series(label, [(group["confidence"], group["accuracy"]) for group in bins], 0, halves, (0.0, 1.0))
    caption = (
        f"{about} Below the diagonal the {label.split()[-1]} is overconfident, above it underconfident. Expected "
        f"calibration error {number(found['ece'])}."
    )
    lines = [points, Series("calibrated", [(0.5, 0.5), (1.0, 1.0)], 4)]
    svg = line_chart(lines, title=f"Reliability. {caption}", x_label=x_label, y_label=y_label)
    return [figure("Reliability", caption, svg, series_rows([points], x_label, y_label))]


def _bars(card: dict, key: str, title: str, x_label: str, caption: str) -> list[dict]:
    """Accuracy by ranges of a quantity, with the number of pairs."""
    bins = [group for group in card.get(key) or [] if group.get("accuracy") is not None]
    if not bins:
        return []
    names = _ranges(bins)
    bars = [_share(name, group["accuracy"], group.get("n"), 0) for name, group in zip(names, bins, strict=True)]
    counts = ", ".join(str(group["n"]) for group in bins)
    svg = bar_chart(bars, title=f"{title}. {caption}", x_label=x_label, y_label="accuracy", top=1.1)
    return [figure(title, f"{caption} Pairs: {counts}.", svg, estimate_rows(bars, x_label, "accuracy"))]


def _best_of_n(card: dict) -> list[dict]:
    """Proxy and gold score of the best of n, by the distance from the policy, with fits."""
    curve = card.get("best_of_n") or []
    if len(curve) < 2:
        return []
    fits = {fit["of"]: fit for fit in card.get("best_of_n_fits") or []}
    furthest = curve[-1]["kl"] ** 0.5
    panels = []
    for index, (name, label) in enumerate((("proxy", "this reward"), ("gold", "gold"))):
        halves = tuple(None if (error := point.get(f"{name}_se")) is None else NORMAL_95 * error for point in curve)
        dots = Series(label, [(point["kl"] ** 0.5, point[name]) for point in curve], index, halves)
        panels.append(Panel(label, fitted_line(fits.get(name), furthest), (dots,)))
    sizes = ", ".join(str(point["n"]) for point in curve)
    caption = (
        f"Mean reward and gold of the answer that this reward ranks best among {sizes}. If gold falls while the reward "
        "rises, the reward is over-optimised."
    )
    x_label = "square root of KL (nats)"
    svg = panel_chart(panels, title=f"Best of n. {caption}", x_label=x_label)
    return [figure("Best of n", caption, svg, panel_rows(panels, x_label))]


def _curve_row(point: dict) -> dict:
    error = point.get("gold_se")
    gold = number(point["gold"]) + ("" if error is None else f" ± {number(error)}")
    return {"n": point["n"], "kl": number(point["kl"], 2), "proxy": number(point["proxy"]), "gold": gold}


def _ranges(bins: list[dict]) -> list[str]:
    """Labels of the ranges, low and high, with enough digits to distinguish them."""
    most = max(abs(group[key]) for group in bins for key in ("low", "high"))
    digits = max(0, 1 - math.floor(math.log10(most))) if most else 0
    between = "\N{HORIZONTAL ELLIPSIS}" if any(group["low"] < 0 for group in bins) else "\N{EN DASH}"
    return [between.join(number(group[key], digits) for key in ("low", "high")) for group in bins]


def _share(label: str, share: float, n: int | None, color: int) -> Estimate:
    """A proportion with Wilson's 95% interval; fewer than two pairs have no interval."""
    low, high = wilson(share, (share * (1 - share) / (n - 1)) ** 0.5, n) if n and n > 1 else (None, None)
    return Estimate(label, share, low, high, color, number(share, 2))
