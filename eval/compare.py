"""Paired comparison of two eval runs on the same items: what changed, by how much, and whether that is noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.errors import UserError, raise_all
from eval import stats
from eval.store import Run, load_run

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
KEY = ["task", "metric", "item_id"]


def compare(a: str | Path | Run, b: str | Path | Run, *, seed: int = 0, any_template: bool = False) -> list[dict]:
    """Compare run `b` with run `a`, item by item.

    Args:
        a, b: folders of two runs (or loaded runs) of one suite in one format.
        seed: of the bootstrap.
        any_template: compare chat runs whose chat templates differ.

    Returns:
        One row for each figure that both runs have, groups' aggregates included: {a, b, suite, task, format, variant,
        metric, value_a, value_b, delta (b - a), se, ci_low, ci_high (95%, Student's t), boot_low, boot_high (95%,
        percentile bootstrap), p, p_holm, test, fixed, regressed, mde, n, clusters, higher_is_better, aggregate,
        verdict}. `a` and `b` are stage names where the runs have them. `p` is of the exact test by clusters where
        scores are right or wrong (McNemar's where each item is its own cluster; `test` is "exact"), else of the t-test
        ("t"); `p_holm` is adjusted over the tasks of one metric (an aggregate is a question of its own, and stays as
        it is). `fixed` and `regressed` count items whose score rose and fell. `mde` is the difference found with 80%
        power. The verdict is better or worse (for the reader, whichever way the metric points) where p_holm is at most
        0.05, else tied.
        What has no interval or detectable effect (fewer than two clusters, nothing changed) has None there.

    Raises:
        UserError: the runs differ in suite, format, few-shot examples, chat template or items, or one is not a run.
    """
    a, b = [run if isinstance(run, Run) else load_run(run) for run in (a, b)]
    return compare_pairs([(a, b)], seed=seed, any_template=any_template)


def compare_pairs(pairs: list[tuple[Run, Run]], *, seed: int = 0, any_template: bool = False) -> list[dict]:
    """`compare` for several pairs; p_holm is adjusted over all that ask one question.

    The family of a p-value: the tasks of one metric, of one suite in one format, in all pairs. An aggregate's family is
    the same aggregate in all pairs.

    Raises:
        UserError: a pair cannot be compared; all such are reported together.
    """
    names = side_names([run for pair in pairs for run in pair])
    rows, refused = [], []
    for a, b in pairs:
        try:
            rows += _rows(a, b, {"a": names[a.path], "b": names[b.path]}, seed, any_template)
        except UserError as error:
            refused.append(error)
    raise_all(refused)
    _adjust(rows)
    for row in rows:
        row["verdict"] = _verdict(row)
    return rows


def side_names(runs: list[Run]) -> dict[Path, str]:
    """Run folder -> what to call its checkpoint: the stage, with its run directory where others have such a stage."""
    sides = {run.path: (_place(run.path.resolve()), run.record["stage"] or run.record["run_id"]) for run in runs}
    for spell in (lambda place: "", lambda place: f"{place.name}/", lambda place: f"{place}/"):
        names = {path: spell(place) + name for path, (place, name) in sides.items()}
        if len(set(names.values())) == len(set(sides.values())):
            break
    return names


def _place(folder: Path) -> Path:
    """The run directory that an eval run is in, else its own folder."""
    return folder.parents[1] if folder.parent.name == "evals" else folder


def is_own_figure(figure: dict) -> bool:
    """Whether a figure of run.json is a task's own mean over items, not a group's."""
    return figure["is_mean"] and figure["members"] is None


def _rows(a: Run, b: Run, names: dict, seed: int, any_template: bool) -> list[dict]:
    _require_same_measurement(a, b, any_template)
    pairs = pair_items(a, b)
    about = {"suite": b.record["suite"], "format": b.record["format"], "variant": b.record.get("variant") or {}}
    return [
        names | about | {"task": figure["task"]} | _difference(figure, pairs, seed)
        for figure in b.record["tasks"]
        if figure["is_mean"]
    ]


def _require_same_measurement(a: Run, b: Run, any_template: bool) -> None:
    """Scores of different questions, or of one question asked in two ways, are not to be subtracted."""
    for key, what in (("suite", "suites"), ("format", "formats")):
        _require_equal(f"The runs are of different {what}.", a.record[key], b.record[key])
    shots = [run.record["settings"]["num_fewshot"] or 0 for run in (a, b)]
    _require_equal("The runs have different numbers of few-shot examples.", *shots)
    if shots[0]:
        drawn = [run.record["seeds"]["fewshot"] for run in (a, b)]
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
    if b.record["format"] == "chat" and templates[0] != templates[1] and not any_template:
        raise UserError(
            "The runs were asked in different chat templates.",
            got=f"{templates[0]} and {templates[1]} (digests)",
            mend="if each checkpoint is meant to have its own: --any_template; or compare in plain format",
        )
    _require_same_items(a, b)


def _require_same_items(a: Run, b: Run) -> None:
    keys = [run.items[KEY] for run in (a, b)]
    if any(key.duplicated().any() for key in keys):
        twice = next(key[key.duplicated()] for key in keys if key.duplicated().any()).iloc[0]
        raise UserError(
            "Items cannot be paired: an id stands for several.",
            got=f"{twice['item_id']!r} twice in task {twice['task']!r}",
            mend="give every row of the suite's data its own `id`, or none of them one",
        )
    if len(keys[0]) != len(keys[1]) or set(map(tuple, keys[0].values)) != set(map(tuple, keys[1].values)):
        raise UserError(
            "The runs are not of the same items.",
            got=" and ".join(f"{len(run.items)} rows with --limit {run.record['settings']['limit']}" for run in (a, b)),
            mend="run `align eval` on both with the same options",
        )
    for run in (a, b):
        if missing := int((~np.isfinite(run.items["score"])).sum()):
            raise UserError(
                "A run has scores that are no numbers.",
                got=f"{missing} of {len(run.items)} in {run.path}",
                mend="mend the suite's metric; such an item is neither right nor wrong",
            )


def _require_equal(problem: str, a: object, b: object) -> None:
    if a != b:
        raise UserError(problem, got=f"{a} and {b}", mend="run `align eval` on both with the same options")


def pair_items(a: Run, b: Run) -> pandas.DataFrame:
    """Rows of run b, with run a's score and output of the same (task, metric, item) as `score_a` and `output_a`."""
    before = a.items[[*KEY, "score", "output"]].rename(columns={"score": "score_a", "output": "output_a"})
    return b.items.merge(before, on=KEY, validate="one_to_one")


def _difference(figure: dict, pairs: pandas.DataFrame, seed: int) -> dict:
    """One figure of the comparison, before adjustment for the number of tasks."""
    members = figure["members"] or [figure["task"]]
    rows = pairs[pairs["task"].isin(members) & (pairs["metric"] == figure["metric"])]
    score_a, score_b, weights, clusters = [rows[c].to_numpy() for c in ("score_a", "score", "weight", "cluster")]
    tasks = np.zeros(len(rows)) if figure["pooled"] else rows["task"].to_numpy()
    change, groups = score_b - score_a, len(np.unique(clusters))
    delta, se = stats.macro_mean(change, weights, tasks), stats.macro_se(change, weights, tasks, clusters)
    low, high = stats.t_interval(delta, se, groups)
    boot_low, boot_high = stats.bootstrap_ci(change, weights, tasks, clusters, seed=seed)
    exact = np.isin([score_a, score_b], (0, 1)).all() and np.all(weights == 1) and len(np.unique(tasks)) == 1
    p = stats.mcnemar_clustered(change, clusters) if exact else stats.t_test_p(delta, se, groups)
    return {
        "metric": figure["metric"],
        "value_a": stats.macro_mean(score_a, weights, tasks),
        "value_b": stats.macro_mean(score_b, weights, tasks),
        "delta": delta,
        "se": _number(se),
        "ci_low": _number(low),
        "ci_high": _number(high),
        "boot_low": _number(boot_low),
        "boot_high": _number(boot_high),
        "p": p,
        "p_holm": p,
        "test": "exact" if exact else "t",
        "fixed": int(np.sum(change > 0)),
        "regressed": int(np.sum(change < 0)),
        "mde": _number(stats.minimum_detectable_effect(se, groups)),
        "n": len(rows),
        "clusters": groups,
        "higher_is_better": figure["higher_is_better"],
        "aggregate": figure["members"] is not None,
    }


def _adjust(rows: list[dict]) -> None:
    """Fill in p_holm, family by family."""
    families: dict[tuple, list[dict]] = {}
    for row in rows:
        question = (row["suite"], row["format"], str(row["variant"]), row["metric"])
        families.setdefault((*question, row["task"] if row["aggregate"] else None), []).append(row)
    for family in families.values():
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
