"""Reward by distance from the reference: the frontiers in a stage's log, and their charts and numbers on the page.

Gao et al. 2022, arXiv 2210.10760: eval/frontier/curves.py has the arithmetic.
"""

from collections.abc import Sequence

from alignment.report.charts.figure_files import figure, panel_rows
from alignment.report.charts.plots import Mark, Panel, Series, panel_chart
from alignment.report.labels import number, p_text, stage_name
from eval.frontier.curves import frontier
from eval.frontier.gold_peak import FEWEST_POINTS
from eval.frontier.points import logged_points, placed_lines, watched_rewards
from eval.frontier.scaling_fits import FORMS

DISTANCE = "square root of KL (nats per answer)"
CURVE = 60  # points of a fitted curve
NORMAL_95 = 1.96
SHAPES = {"rl": "start + d (alpha \N{MINUS SIGN} beta log d)", "best_of_n": "start + d (alpha \N{MINUS SIGN} beta d)"}


def logged_frontiers(stage: str, metrics: Sequence[dict]) -> list[dict]:
    """The frontier, as by `align frontier`, for each logged reward that is not trained on.

    Without such a reward, the frontier of the reward trained on. Empty if too few steps were logged.

    Args:
        stage: the stage's name.
        metrics: the lines of metrics.jsonl.
    """
    if len(placed_lines(metrics)) < FEWEST_POINTS:
        return []
    found = []
    golds: list[str | None] = [*watched_rewards(metrics)]
    for gold in golds or [None]:
        points, name = logged_points(metrics, gold)
        if len(points) >= FEWEST_POINTS:
            found.append({"stage": stage, "source": "log", "proxy": "reward", "gold": name, **frontier(points)})
    return found


def frontier_section(found: dict) -> dict:
    """The charts of a frontier, a sentence on its peak with the verdict, and its fits."""
    stage = stage_name(found["stage"])
    against = f" against {_last(found['gold'])}" if found["gold"] else ""
    furthest = max(point["distance"] for point in found["points"])
    return {
        "title": f"{stage}: reward{against}",
        "figures": [_by_distance(found, stage), *([_by_step(found, stage)] if found["peak"] else [])],
        "peak": found["peak"] and _peak(found),
        "fits": [fit_row(fit, furthest) for fit in found["fits"]],
    }


def fit_row(fit: dict, furthest: float) -> dict:
    """A fit as the cells of a table.

    Args:
        fit: a fit of `eval.frontier.scaling_fits.fit`, with `of`.
        furthest: the largest distance of a point.
    """
    coefficients = {name: f"{number(fit[name])} ± {number(fit[f'{name}_se'])}" for name in ("start", "alpha", "beta")}
    return coefficients | {
        "of": fit["of"],
        "shape": SHAPES[fit["form"]],
        "r2": number(fit["r2"], 2),
        "top": _top(fit["peak_distance"], furthest),
    }


def fitted_line(fit: dict | None, furthest: float) -> tuple[Series, ...]:
    """The fitted curve from distance 0 to the furthest point; empty without a fit."""
    if fit is None:
        return ()
    ds = [furthest * step / (CURVE - 1) for step in range(CURVE)]
    values = [(d, float(fit["start"] + d * (fit["alpha"] - fit["beta"] * FORMS[fit["form"]](d)))) for d in ds]
    return (Series(f"fit of {fit['of']}", values, "ink"),)


def _by_distance(found: dict, stage: str) -> dict:
    points, peak = found["points"], found["peak"]
    fits = {fit["of"]: fit for fit in found["fits"]}
    furthest = max(point["distance"] for point in points)
    panels = [
        Panel(
            label,
            fitted_line(fits.get(name), furthest),
            (_dots(label, points, name, "distance", tone),),
            Mark(peak["distance"], *sorted((peak["low_distance"], peak["high_distance"]))) if peak else None,
        )
        for label, name, tone in _rewards(found)
    ]
    caption = (
        f"One dot per {'checkpoint' if found['source'] == 'checkpoints' else 'logged step'}, by distance from the "
        "reference, with the fitted curve."
    )
    if peak:
        caption += f" The vertical line marks the peak of {_last(found['gold'])}, the band its 95% interval."
    if peak and peak["over_optimised"]:
        caption += " Beyond it the reward is over-optimised: use a larger beta or fewer steps."
    title = f"{stage}: rewards by distance"
    svg = panel_chart(panels, title=title, x_label=DISTANCE)
    return figure(title, caption, svg, panel_rows(panels, DISTANCE))


def _by_step(found: dict, stage: str) -> dict:
    points, peak = found["points"], found["peak"]
    label = _last(found["gold"])
    smooth = Series("smoothed", [(point["step"], point["gold_smoothed"]) for point in points], "ink")
    mark = Mark(peak["step"], peak["low"], peak["high"])
    panels = [
        Panel(name, (smooth,) if key == "gold" else (), (_dots(name, points, key, "step", tone),), mark)
        for name, key, tone in _rewards(found)
    ]
    title = f"{stage}: rewards by step"
    caption = f"The same rewards by step; the curve is {label}, smoothed, with its peak marked."
    return figure(title, caption, panel_chart(panels, title=title, x_label="step"), panel_rows(panels, "step"))


def _rewards(found: dict) -> list[tuple[str, str, int]]:
    """(label, key of a point, colour) of the reward trained on, and of gold if known."""
    gold = [(_last(found["gold"]), "gold", 1)] if found["peak"] else []
    return [("reward (trained on)", "proxy", 0), *gold]


def _dots(label: str, points: list[dict], name: str, x: str, tone: int) -> Series:
    errors = [point[f"{name}_se"] for point in points]
    halves = tuple(None if error is None else NORMAL_95 * error for error in errors)
    return Series(label, [(point[x], point[name]) for point in points], tone, halves)


def _peak(found: dict) -> dict:
    peak, over = found["peak"], found["peak"]["over_optimised"]
    text = (
        f"Smoothed, {_last(found['gold'])} is highest ({number(peak['gold'])}) at step {peak['step']} (95% interval "
        f"{peak['low']} to {peak['high']}), distance {number(peak['distance'], 2)}. It falls by {number(peak['fall'])} "
        f"from there to the end (p {p_text(peak['fall_p'])})."
    )
    return {
        "text": text,
        "verdict": "worse" if over else "tied",
        "word": "over-optimised since" if over else "no fall beyond noise",
    }


def _top(distance: float | None, furthest: float) -> str:
    if distance is None:
        return "none"
    return "beyond the points" if distance > furthest else number(distance, 2)


def _last(name: str) -> str:
    """The short name of a reward given by its import path: `gold_reward` for `reward_models.tinyworld:gold_reward`."""
    return name.rpartition(":")[2].partition("?")[0]
