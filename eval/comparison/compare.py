"""Paired comparison of two eval runs on the same items: what changed, by how much, and whether that is noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.errors import UserError, raise_all
from eval.comparison.hypothesis_tests import holm, mcnemar_clustered, minimum_detectable_effect, t_test_p
from eval.comparison.intervals import FEWEST_CLUSTERS, bootstrap_ci, t_interval, within
from eval.comparison.standard_errors import macro_error, macro_mean
from eval.conditions.left_out import lacking
from eval.harness.store import Run, load_run

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
KEY = ["task", "metric", "item_id"]
MEASURED = ["task", "metric", "score_a", "score", "weight", "cluster"]  # columns of a comparison, without the texts
TOO_FEW = "a task has fewer than two clusters of items, so its score's variation cannot be estimated"
NO_SPREAD = "all clusters of items changed alike, so the variation between items cannot be estimated"


def compare(a: str | Path | Run, b: str | Path | Run, *, seed: int = 0, any_template: bool = False) -> list[dict]:
    """Compare run `b` with run `a`, item by item.

    Args:
        a, b: folders of two runs (or loaded runs) of one suite in one format.
        seed: seed of the bootstrap.
        any_template: compare chat runs whose chat templates differ.

    Returns:
        One row per figure that both runs have, including aggregates of groups: {a, b, suite, task, format, variant,
        metric, value_a, value_b, delta (b - a), se, df, ci_low, ci_high (95%, Student's t with df degrees of freedom;
        cut to [-1, 1] if scores are right or wrong; not adjusted for the number of tasks), boot_low, boot_high (95%,
        percentile bootstrap), p, p_holm, test, fixed, regressed, mde, n, clusters, higher_is_better, aggregate,
        verdict, reason}. `a` and `b` are stage names if the runs have them. `p` is
        from the exact test by clusters if scores are right or wrong (McNemar's if each item is its own cluster; `test`
        is "exact"), otherwise from the t-test ("t"). `p_holm` is adjusted over the tasks of one metric of this pair; an
        aggregate is a separate question and is not adjusted. `fixed` and `regressed` count items whose score rose and
        fell. `mde` is the difference detected with 80% power. `left_out` counts the items that a side's model could not
        be asked, as they do not fit into its context: only items that both sides answered are paired.
        `endpoints`, only if a side is behind an endpoint: {a or b: URL#MODEL}.
        The verdict is better or worse (whichever direction the metric has) if p_holm is at most 0.05, tied if it is
        higher, and unknown without a p; `reason` then says why (otherwise None).
        Undefined values are None: the standard error, interval and p if a task has fewer than two clusters; the
        interval if there are fewer than five clusters in all; the interval and the t-test's p if the standard error is
        0 although items changed; the detectable effect if the standard error is 0. If no item changed, p is 1 and the
        interval of five clusters or more [0, 0].

    Raises:
        UserError: the runs differ in suite, format, few-shot examples, chat template or items, or a folder is not a
            run.
    """
    a, b = [run if isinstance(run, Run) else load_run(run) for run in (a, b)]
    return compare_pairs([(a, b)], seed=seed, any_template=any_template)


def compare_pairs(pairs: list[tuple[Run, Run]], *, seed: int = 0, any_template: bool = False) -> list[dict]:
    """Compare several pairs of runs; each pair has the p_holm and verdict that `compare` gives it alone.

    P-values are adjusted over the tasks of one metric in one pair of runs, thus of one suite in one format. Other pairs
    in the same command or report do not change them. An aggregate is not adjusted.

    Raises:
        UserError: pairs cannot be compared; all of them are reported together.
    """
    names = side_names([run for pair in pairs for run in pair])
    rows, refused = [], []
    for a, b in pairs:
        try:
            rows += _judged(_rows(a, b, {"a": names[a.path], "b": names[b.path]}, seed, any_template))
        except UserError as error:
            refused.append(error)
    raise_all(refused)
    return rows


def side_names(runs: list[Run]) -> dict[Path, str]:
    """Return run folder -> name of its checkpoint: the stage, preceded by the run directory if stages share a name."""
    sides = {run.path: (_place(run.path.resolve()), run.record["stage"] or run.record["run_id"]) for run in runs}
    for spell in (lambda place: "", lambda place: f"{place.name}/", lambda place: f"{place}/"):
        names = {path: spell(place) + name for path, (place, name) in sides.items()}
        if len(set(names.values())) == len(set(sides.values())):
            break
    return names


def _place(folder: Path) -> Path:
    """The run directory of an eval run, or its own folder if it is in none."""
    return folder.parents[1] if folder.parent.name == "evals" else folder


def is_own_figure(figure: dict) -> bool:
    """Whether a figure of run.json is a task's mean over items, not a group's aggregate."""
    return figure["is_mean"] and figure["members"] is None


def _rows(a: Run, b: Run, names: dict, seed: int, any_template: bool) -> list[dict]:
    _require_same_measurement(a, b, any_template)
    items, gone = pair_items(a, b), lacking(a.record, b.record)
    pairs = {name: items[name].to_numpy() for name in MEASURED}
    paired = set(pairs["task"])  # not the tasks of which no item fits into a side's context
    about = {"suite": b.record["suite"], "format": b.record["format"], "variant": b.record.get("variant") or {}}
    if unknown := {side: run.record["checkpoint"] for side, run in (("a", a), ("b", b)) if run.record.get("endpoint")}:
        about |= {"endpoints": unknown}
    return [
        names | about | {"task": figure["task"]} | _difference(figure, pairs, seed) | {"left_out": _gone(figure, gone)}
        for figure in b.record["tasks"]
        if figure["is_mean"] and _members(figure) <= paired
    ]


def _members(figure: dict) -> set[str]:
    """The tasks whose items make a figure."""
    return set(figure["members"] or [figure["task"]])


def _gone(figure: dict, gone: dict[str, set[str]]) -> int:
    """The number of items of a figure that a side left out."""
    return sum(len(gone.get(task, ())) for task in _members(figure))


def _require_same_measurement(a: Run, b: Run, any_template: bool) -> None:
    """Refuse to subtract scores of different questions, or of one question asked in two ways."""
    for key, what in (("suite", "suites"), ("format", "formats")):
        _require_equal(f"The runs have different {what}.", a.record[key], b.record[key])
    shots = [run.record["settings"].get("num_fewshot") or 0 for run in (a, b)]
    _require_equal("The runs have different numbers of few-shot examples.", *shots)
    if shots[0]:
        drawn = [run.record["seeds"].get("fewshot") for run in (a, b)]
        _require_equal("The runs drew their few-shot examples with different seeds.", *drawn)
    _require_equal(
        f"Suite {b.record['suite']!r} changed between the runs (its YAML, its functions or its data).",
        a.record["suite_digest"],
        b.record["suite_digest"],
    )
    _require_equal(
        "The runs were scored by different versions of lm-eval.",
        *[(run.record.get("versions") or {}).get("lm_eval") for run in (a, b)],
    )
    templates = [run.record.get("template_digest") for run in (a, b)]
    unknown = any(run.record.get("endpoint") for run in (a, b))  # the comparison says so
    if b.record["format"] == "chat" and templates[0] != templates[1] and not (any_template or unknown):
        raise UserError(
            "The runs used different chat templates.",
            got=f"{templates[0]} and {templates[1]} (digests)",
            fix="add --any_template if each checkpoint should use its own template, or compare in plain format",
        )
    _require_same_items(a, b)


def _require_same_items(a: Run, b: Run) -> None:
    keys = [run.items[KEY] for run in (a, b)]
    if any(key.duplicated().any() for key in keys):
        twice = next(key[key.duplicated()] for key in keys if key.duplicated().any()).iloc[0]
        raise UserError(
            "Items cannot be paired: several items have the same id.",
            got=f"{twice['item_id']!r} twice in task {twice['task']!r}",
            fix="give every row of the suite's data a unique `id`, or remove the column",
        )
    tuples = [set(map(tuple, key.values)) for key in keys]
    gone = [lacking(run.record) for run in (b, a)]  # by the other side
    only = [
        [key for key in own - other if key[2] not in missing.get(key[0], ())]
        for own, other, missing in zip(tuples, reversed(tuples), gone, strict=True)
    ]
    if any(only):
        raise UserError(
            "The runs have different items.",
            got=" and ".join(
                f"{len(run.items)} rows with --limit {run.record['settings'].get('limit')}" for run in (a, b)
            ),
            fix="run `align eval` on both with the same options",
        )
    for run in (a, b):
        if missing := int((~np.isfinite(run.items["score"])).sum()):
            raise UserError(
                "A run has scores that are not numbers.",
                got=f"{missing} of {len(run.items)} in {run.path}",
                fix="correct the suite's metric: such an item is neither right nor wrong",
            )


def _require_equal(problem: str, a: object, b: object) -> None:
    if a != b:
        raise UserError(problem, got=f"{a} and {b}", fix="run `align eval` on both with the same options")


def pair_items(a: Run, b: Run) -> pandas.DataFrame:
    """Rows of run b, with run a's score and output for the same (task, metric, item) as `score_a` and `output_a`."""
    before = a.items[[*KEY, "score", "output"]].rename(columns={"score": "score_a", "output": "output_a"})
    return b.items.merge(before, on=KEY, validate="one_to_one")


def _difference(figure: dict, pairs: dict[str, np.ndarray], seed: int) -> dict:
    """One row of the comparison, before adjustment for the number of tasks; `pairs` holds the columns MEASURED."""
    rows = np.isin(pairs["task"], list(_members(figure))) & (pairs["metric"] == figure["metric"])
    score_a, score_b, weights, clusters = [pairs[c][rows] for c in ("score_a", "score", "weight", "cluster")]
    tasks = np.zeros(len(clusters)) if figure["pooled"] else pairs["task"][rows]
    change, groups = score_b - score_a, len(np.unique(clusters))
    delta, error = (
        macro_mean(change, weights, tasks),
        macro_error(change, weights, tasks, clusters),
    )
    right_or_wrong = bool(np.isin([score_a, score_b], (0, 1)).all())
    exact = right_or_wrong and np.all(weights == 1) and len(np.unique(tasks)) == 1
    enough, changed = not np.isnan(error.se), bool(np.any(change != 0))
    low, high = boot_low, boot_high = (float("nan"), float("nan")) if changed or not enough else (0.0, 0.0)
    if changed and error.se > 0:
        low, high = t_interval(delta, error.se, groups, df=error.df)
        if right_or_wrong:
            low, high = within((low, high), -1.0, 1.0)  # the difference of two rates
        boot_low, boot_high = bootstrap_ci(change, weights, tasks, clusters, seed=seed)
    if groups < FEWEST_CLUSTERS:
        low, high = float("nan"), float("nan")
    if not enough:
        p = float("nan")
    elif not changed:
        p = 1.0
    elif exact:
        p = mcnemar_clustered(change, clusters)
    else:
        p = t_test_p(delta, error.se, groups, df=error.df)
    return {
        "metric": figure["metric"],
        "value_a": macro_mean(score_a, weights, tasks),
        "value_b": macro_mean(score_b, weights, tasks),
        "delta": delta,
        "se": _number(error.se),
        "df": _number(error.df),
        "ci_low": _number(low),
        "ci_high": _number(high),
        "boot_low": _number(boot_low),
        "boot_high": _number(boot_high),
        "p": p,
        "p_holm": p,
        "test": "exact" if exact else "t",
        "fixed": int(np.sum(change > 0)),
        "regressed": int(np.sum(change < 0)),
        "mde": _number(minimum_detectable_effect(error.se, groups, df=error.df)),
        "n": len(clusters),
        "clusters": groups,
        "higher_is_better": figure["higher_is_better"],
        "aggregate": figure["members"] is not None,
    }


def _judged(rows: list[dict]) -> list[dict]:
    """The rows of one pair of runs with adjusted p_holm, verdict and reason."""
    families: dict[tuple, list[dict]] = {}
    for row in rows:
        families.setdefault((row["metric"], row["task"] if row["aggregate"] else None), []).append(row)
    for family in families.values():
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row |= {"p": _number(row["p"]), "p_holm": _number(adjusted)}
            row |= {"verdict": _verdict(row), "reason": _reason(row)}
    return rows


def _verdict(row: dict) -> str:
    if row["p_holm"] is None:
        return "unknown"
    if row["p_holm"] > ALPHA or row["delta"] == 0:
        return "tied"
    rose = row["delta"] > 0
    return "better" if rose == (row["higher_is_better"] is not False) else "worse"


def _reason(row: dict) -> str | None:
    """Why the verdict is unknown; None otherwise."""
    if row["p"] is not None:
        return None
    return TOO_FEW if row["se"] is None else NO_SPREAD


def _number(value: float) -> float | None:
    """None for NaN, which JSON lacks."""
    return None if np.isnan(value) else value
