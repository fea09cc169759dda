"""Paired comparison of two eval runs on the same items: what changed, by how much, and whether that is noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.errors import UserError
from eval import stats
from eval.store import Run, load_run, variant_words

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
KEY = ["task", "metric", "item_id"]


def compare(a: str | Path | Run, b: str | Path | Run, *, seed: int = 0) -> list[dict]:
    """Compare run `b` with run `a`, item by item.

    Args:
        a, b: folders of two runs (or loaded runs) of one suite in one format.
        seed: of the bootstrap.

    Returns:
        One row for each figure that both runs have, groups' aggregates included: {a, b, suite, task, format, variant,
        metric, value_a, value_b, delta (b - a), se, ci_low, ci_high (bootstrap, 95%), p, p_holm, fixed, regressed, mde,
        n, higher_is_better, aggregate, verdict}. `a` and `b` are stage names where the runs have them. `p` is the exact
        McNemar test's where scores are right or wrong and items independent, else the clustered t-test's; `p_holm` is
        adjusted over the tasks of one metric (an aggregate is a question of its own, and stays as it is). `fixed` and
        `regressed` count items whose score rose and fell. `mde` is the difference found with 80% power. The verdict is
        better or worse (for the reader, whichever way the metric points) where p_holm is at most 0.05, else tied.

    Raises:
        UserError: the runs differ in suite, format, few-shot examples or items, or one is not a run.
    """
    a, b = [run if isinstance(run, Run) else load_run(run) for run in (a, b)]
    _require_same_measurement(a, b)
    names = {"a": a.record["stage"] or a.record["run_id"], "b": b.record["stage"] or b.record["run_id"]}
    pairs = _pair(a, b)
    rows = []
    for figure in b.record["tasks"]:
        if figure["is_mean"]:
            about = {"suite": b.record["suite"], "task": figure["task"], "format": b.record["format"]}
            about["variant"] = b.record.get("variant") or {}
            rows.append(names | about | _difference(figure, pairs, seed))
    _adjust([row for row in rows if not row["aggregate"]])
    for row in rows:
        row["verdict"] = _verdict(row)
    return rows


def find_runs(path: str | Path, suite: str | None = None) -> dict[tuple[str, str, str], Path]:
    """The eval runs that a path stands for.

    Args:
        path: an eval run's folder; or a checkpoint (`RUN/STAGE/checkpoint`) or stage folder (`RUN/STAGE`) of a run
            directory, for all runs of that stage in `RUN/evals`.
        suite: only runs of this suite.

    Returns:
        (suite, format, the variant in words) -> folder.

    Raises:
        UserError: there are none.
    """
    path = Path(path).resolve()
    if (path / "run.json").exists():
        records = {path: load_run(path).record}
    else:
        stage = path.parent if path.name == "checkpoint" else path
        folders = sorted(file.parent for file in stage.parent.glob("evals/*/run.json"))
        records = {folder: load_run(folder).record for folder in folders}
        records = {folder: record for folder, record in records.items() if record["stage"] == stage.name}
    found = {measurement(r): folder for folder, r in records.items() if suite in (None, r["suite"])}
    if not found:
        raise UserError(
            "No eval runs found" + (f" of suite {suite!r}." if suite else "."),
            got=path,
            needed="an eval run's folder (with run.json), or RUN/STAGE/checkpoint with runs in RUN/evals/STAGE-*",
            mend="run `align eval` on the checkpoint first",
        )
    return found


def measurement(record: dict) -> tuple[str, str, str]:
    """What was measured: suite, format, and the options that set the run apart, in words. Only equals are compared."""
    return record["suite"], record["format"], " ".join(variant_words(record.get("variant") or {}))


def compare_found(a: str | Path, b: str | Path, suite: str | None = None) -> list[dict]:
    """`compare` for every suite and format that both sides have runs of; sides as in `find_runs`.

    Raises:
        UserError: the sides have no suite and format in common, or a pair cannot be compared.
    """
    runs_a, runs_b = find_runs(a, suite), find_runs(b, suite)
    common = [key for key in runs_a if key in runs_b]
    if not common:
        shown = [", ".join(f"{s} ({' '.join(rest).strip()})" for s, *rest in runs) for runs in (runs_a, runs_b)]
        raise UserError(
            "The two sides have no suite and format in common.",
            got=f"{shown[0]} against {shown[1]}",
            mend="run `align eval` on both with the same --suite and --format",
        )
    return [row for key in common for row in compare(runs_a[key], runs_b[key])]


def _require_same_measurement(a: Run, b: Run) -> None:
    """Scores of different questions, or of one question asked in two ways, are not to be subtracted."""
    for key, what in (("suite", "suites"), ("format", "formats")):
        _require_equal(f"The runs are of different {what}.", a.record[key], b.record[key])
    shots = [run.record["settings"]["num_fewshot"] or 0 for run in (a, b)]
    _require_equal("The runs have different numbers of few-shot examples.", *shots)
    _require_equal(
        f"Suite {b.record['suite']!r} changed between the runs (its YAML, its functions or its data).",
        a.record["suite_digest"],
        b.record["suite_digest"],
    )
    counts = [len(run.items) for run in (a, b)]
    same = counts[0] == counts[1] and set(map(tuple, a.items[KEY].values)) == set(map(tuple, b.items[KEY].values))
    if not same:
        raise UserError(
            "The runs are not of the same items.",
            got=f"{counts[0]} rows with --limit {a.record['settings']['limit']}, "
            f"{counts[1]} with --limit {b.record['settings']['limit']}",
            mend="run `align eval` on both with the same options",
        )


def _require_equal(problem: str, a: object, b: object) -> None:
    if a != b:
        raise UserError(problem, got=f"{a} and {b}", mend="run `align eval` on both with the same options")


def _pair(a: Run, b: Run) -> pandas.DataFrame:
    """Columns of run b, and run a's score of the same (task, metric, item) as `score_a`."""
    scores = a.items[[*KEY, "score"]].rename(columns={"score": "score_a"})
    return b.items.merge(scores, on=KEY, validate="one_to_one")


def _difference(figure: dict, pairs: pandas.DataFrame, seed: int) -> dict:
    """One figure of the comparison, before adjustment for the number of tasks."""
    members = figure["members"] or [figure["task"]]
    rows = pairs[pairs["task"].isin(members) & (pairs["metric"] == figure["metric"])]
    score_a, score_b, weights, clusters = [rows[c].to_numpy() for c in ("score_a", "score", "weight", "cluster")]
    tasks = np.zeros(len(rows)) if figure["pooled"] else rows["task"].to_numpy()
    change = score_b - score_a
    delta, se = stats.macro_mean(change, weights, tasks), stats.macro_se(change, weights, tasks, clusters)
    low, high = stats.bootstrap_ci(change, weights, tasks, clusters, seed=seed)
    groups = len(np.unique(clusters))
    binary = np.isin(score_a, (0, 1)).all() and np.isin(score_b, (0, 1)).all()
    exact = binary and groups == len(rows) and figure["members"] is None
    p = stats.mcnemar_exact(score_a, score_b) if exact else stats.t_test_p(delta, se, groups)
    return {
        "metric": figure["metric"],
        "value_a": stats.macro_mean(score_a, weights, tasks),
        "value_b": stats.macro_mean(score_b, weights, tasks),
        "delta": delta,
        "se": _number(se),
        "ci_low": _number(low),
        "ci_high": _number(high),
        "p": p,
        "p_holm": p,
        "fixed": int(np.sum(change > 0)),
        "regressed": int(np.sum(change < 0)),
        "mde": _number(stats.minimum_detectable_effect(se)),
        "n": len(rows),
        "higher_is_better": figure["higher_is_better"],
        "aggregate": figure["members"] is not None,
    }


def _adjust(rows: list[dict]) -> None:
    """Fill in p_holm over the tasks of each metric."""
    for metric in {row["metric"] for row in rows}:
        family = [row for row in rows if row["metric"] == metric]
        for row, adjusted in zip(family, stats.holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = adjusted


def _verdict(row: dict) -> str:
    if row["p_holm"] > ALPHA or row["delta"] == 0:
        return "tied"
    rose = row["delta"] > 0
    return "better" if rose == (row["higher_is_better"] is not False) else "worse"


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value
