"""Convert lm-eval's samples to rows of items.parquet, and summarise them as a run's figures with standard errors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.errors import UserError
from eval.comparison.calibration import expected_calibration_error
from eval.comparison.intervals import macro_interval, t_interval, within
from eval.comparison.standard_errors import macro_error, macro_mean, weighted_mean

if TYPE_CHECKING:
    import pandas
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

    from eval.endpoint.endpoint_lm import EndpointReply
    from eval.harness.lm import Reply
    from eval.harness.suite import Suite

COLUMNS = (
    *("task", "metric", "item_id", "cluster", "prompt", "target", "output", "raw_output"),
    *("score", "weight", "gen_len", "truncated", "gold_probability", "confidence"),
)
CALIBRATION_BINS = 10
NO_SPREAD = dict.fromkeys(("se", "df", "ci_low", "ci_high"))


def collect_items(
    samples: dict[str, list[dict]], suite: Suite, replies: Mapping[tuple[str, int], Sequence[Reply | EndpointReply]]
) -> pandas.DataFrame:
    """Make one row per task, metric and item.

    Args:
        samples: task name -> lm-eval's logged samples.
        suite: the suite that was run.
        replies: (task name, document index) -> the generated replies, for their lengths.

    Returns:
        Columns task, metric, item_id, cluster (the data's `cluster`, or the item if there is none), prompt, target,
        output (of a filter: the answer that it extracts), raw_output (the reply before filters; None if nothing was
        generated), score, weight (1, or the denominator of a ratio such as bits per byte), gen_len in tokens and
        truncated (both None if nothing was generated; gen_len also if an endpoint does not give it), and for multiple
        choice gold_probability and confidence: the shares of the right and of the likeliest choice in the probability
        of all choices. Metrics without a number per item have no rows.
    """
    import pandas

    rows = []
    for name, task_samples in samples.items():
        for sample in task_samples:
            said = replies.get((name, sample["doc_id"]))
            reply = said[0] if said else None
            row = _describe(sample, suite.tasks[name]) | {
                "task": short_name(name),
                "gen_len": reply.gen_len if reply else None,
                "truncated": reply.truncated if reply else None,
            }
            if suite.calibration and row["gold_probability"] is not None:
                rows.append(row | {"metric": "brier", "score": sample_brier(sample, suite.tasks[name]), "weight": 1.0})
            for metric in sample["metrics"]:
                scored = _score(metric, sample[metric])
                if scored:
                    score, weight = scored
                    rows.append(row | {"metric": label(metric, sample["filter"]), "score": score, "weight": weight})
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def summarise(items: pandas.DataFrame, results: dict, suite: Suite) -> list[dict]:
    """Compute a run's figures: one per task and metric, then one per aggregate of a group.

    Args:
        items: rows as `collect_items` returns them.
        results: the results of lm-eval.
        suite: the suite that was run.

    Returns:
        [{task, metric, value, se, df, ci_low, ci_high, n, chance, centred, higher_is_better, is_mean, members,
        pooled}]. `is_mean` says that the figure is the (weighted) mean of the items' scores; other figures have no
        `se`, no 95% interval and no comparison, nor do figures of a task with fewer than two clusters of items. `df`
        are the degrees of freedom of `se`. `members` lists the tasks of a group's aggregate, which is their macro mean,
        or with `pooled` the mean over all their items. A suite's centred average has an `se` although its items' scores
        have different scales.
    """
    rows: list[dict] = []
    for name, task in suite.tasks.items():
        directions = results["higher_is_better"][name]
        for key, value in results["results"][name].items():
            metric, _, filter_name = key.partition(",")
            if filter_name and not metric.endswith("_stderr"):
                found = items[(items["task"] == short_name(name)) & (items["metric"] == label(metric, filter_name))]
                shown = {"task": short_name(name), "metric": label(metric, filter_name)}
                n = len(found) or results["n-samples"][name]["effective"]
                docs = [sample["doc"] for sample in results["samples"][name]]
                rows.append(shown | _figure(found, value, n, directions.get(metric), chance(task, metric, docs)))
        rows += _calibration(items[(items["task"] == short_name(name)) & (items["metric"] == "brier")])
    rows += [row for group in suite.groups.values() for row in _aggregates(group, items, rows)]
    return rows + _centred_average(suite, rows)


def require_figures(figures: list[dict], suite: Suite, left_out: list[dict]) -> None:
    """Raise for tasks of which a run has no figure, apart from those whose items are all left out.

    Args:
        figures: as `summarise` returns them.
        left_out: as `eval.conditions.left_out.leave_out` returns them.
    """
    known = {row["task"] for row in figures} | {row["task"] for row in left_out if row["n"] == row["of"]}
    lacking = [name for name in suite.tasks if short_name(name) not in known]
    if lacking:
        raise UserError(
            f"No figure of {', '.join(lacking)}.",
            got="process_results without a metric for any reply",
            expected="at least one metric",
            fix="correct process_results or metric_list in the task's YAML",
        )


def label(metric: str, filter_name: str) -> str:
    """A metric's name in tables: lm-eval's name, followed by the filter if the task has one."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def short_name(task: str) -> str:
    """The task of `group::task`, lm-eval's name for a task defined within its group."""
    return task.rpartition("::")[2]


def chance(task: Task, metric: str, docs: list[dict]) -> float | None:
    """The expected score of guessing, if known: for multiple choice, and for exact match of free text (zero)."""
    if task.OUTPUT_TYPE == "loglikelihood" and metric == "acc":
        return 0.0  # one word among all words
    if task.OUTPUT_TYPE == "multiple_choice" and metric in ("acc", "acc_norm") and not task.config.process_results:
        return float(np.mean([1 / len(task.doc_to_choice(doc)) for doc in docs]))
    return 0.0 if metric == "exact_match" else None


def _describe(sample: dict, task: Task) -> dict:
    """The columns about the item and the answer."""
    doc, arguments, response = sample["doc"], sample["arguments"], sample["filtered_resps"]
    own_id, raw = item_id(sample), None
    if task.OUTPUT_TYPE == "multiple_choice":
        best = int(np.argmax([likelihood for likelihood, *_ in response]))
        output = task.doc_to_choice(doc)[best] if len(response) == len(task.doc_to_choice(doc)) else ""
    elif task.OUTPUT_TYPE == "generate_until":
        output = response[0] if isinstance(response[0], str) else json.dumps(response[0])
        replies = sample["resps"][0]
        raw = replies[0] if len(replies) == 1 else json.dumps(replies)
    else:
        output = ""
    probabilities = choice_probabilities(sample, task)
    gold = gold_choice(sample, task)
    return {
        "gold_probability": None if probabilities is None or gold is None else float(probabilities[gold]),
        "confidence": None if probabilities is None else float(probabilities.max()),
        "item_id": own_id,
        "cluster": str(doc.get("cluster", own_id)),
        "prompt": "" if task.OUTPUT_TYPE == "loglikelihood_rolling" else str(arguments[0][0]),
        "target": _shown_target(sample, task),
        "output": output,
        "raw_output": raw,
    }


def _shown_target(sample: dict, task: Task) -> str:
    """The target; an example is named as such, in families of which a task says that other answers are right too."""
    families = (task.config.metadata or {}).get("example_targets", ())
    is_example = sample["doc"].get("family") in families
    return f"for example: {sample['target']}" if is_example else str(sample["target"])


def item_id(sample: dict) -> str:
    """The id of a sample's item: the data's `id`, or otherwise its place and the digest of its row."""
    own = sample["doc"].get("id")
    return f"{sample['doc_id']}-{sample['doc_hash'][:8]}" if own is None else str(own)


def choice_probabilities(sample: dict, task: Task) -> np.ndarray | None:
    """(choices,) probabilities of a multiple-choice item's choices, summing to 1; None for other items."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    count = len(task.doc_to_choice(sample["doc"]))
    likelihoods = np.array([likelihood for likelihood, *_ in sample["filtered_resps"][:count]])
    shares = np.exp(likelihoods - likelihoods.max())
    return shares / shares.sum()


def gold_choice(sample: dict, task: Task) -> int | None:
    """The index of a multiple-choice item's only right choice; None if there is no such choice."""
    target = sample["target"]
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results:
        return None
    if isinstance(target, str):
        choices = task.doc_to_choice(sample["doc"])
        return choices.index(target) if target in choices else int(target) if target.isdigit() else None
    is_number = isinstance(target, Real)
    return int(target) if is_number and target >= 0 else None


def sample_brier(sample: dict, task: Task) -> float:
    """The Brier score of a multiple-choice item: the squared distance of the probabilities to the right choice."""
    probabilities = choice_probabilities(sample, task)
    assert probabilities is not None, "a Brier score is asked of multiple choice alone"
    return float(np.square(probabilities - np.eye(len(probabilities))[gold_choice(sample, task)]).sum())


def _score(metric: str, value: Any) -> tuple[float, float] | None:
    """(score, weight) of an item; None if the metric has no number for it."""
    if metric == "bits_per_byte":
        log_likelihood, size = value
        return -log_likelihood / (size * math.log(2)), float(size)
    return (float(value), 1.0) if isinstance(value, (bool, Real, np.bool_)) else None


def _figure(items: pandas.DataFrame, value: float, n: int, higher_is_better: bool | None, guess: float | None) -> dict:
    scores, weights = items["score"].to_numpy(), items["weight"].to_numpy()
    is_mean = len(items) and math.isclose(weighted_mean(scores, weights), value, rel_tol=1e-6, abs_tol=1e-9)
    spread = _spread(scores, weights, np.zeros(len(items)), items["cluster"].to_numpy()) if is_mean else NO_SPREAD
    return {
        "value": float(value),
        **spread,
        "n": n,
        "chance": guess,
        "centred": _above_chance(value, guess),
        "higher_is_better": higher_is_better,
        "is_mean": bool(is_mean),
        "members": None,
        "pooled": False,
    }


def _spread(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray) -> dict:
    """{se, df, ci_low, ci_high} of the mean over tasks; None for undefined values."""
    error = macro_error(scores, weights, tasks, clusters)
    low, high = macro_interval(scores, weights, tasks, clusters)
    return {"se": _number(error.se), "df": _number(error.df), "ci_low": _number(low), "ci_high": _number(high)}


def _calibration(items: pandas.DataFrame) -> list[dict]:
    """Brier score and expected calibration error of one task's items; empty without items."""
    if items.empty:
        return []
    confidence, gold = items["confidence"].to_numpy(float), items["gold_probability"].to_numpy(float)
    error = expected_calibration_error(confidence, (gold == confidence).astype(float), CALIBRATION_BINS, "width")
    named = {"task": items["task"].iloc[0]}
    brier = _figure(items, float(items["score"].mean()), len(items), False, None)
    ece = brier | NO_SPREAD | {"value": error, "is_mean": False}
    return [named | {"metric": "brier"} | brier, named | {"metric": "ece"} | ece]


def _centred_average(suite: Suite, rows: list[dict]) -> list[dict]:
    """The mean of (score - chance) / (1 - chance) over a suite's tasks; empty if the suite defines none."""
    parts = [row for row in rows if suite.centred.get(row["task"]) == row["metric"] and row["centred"] is not None]
    if not parts:
        return []
    value = float(np.mean([row["centred"] for row in parts]))
    figure = {
        "task": "core",
        "metric": "centred",
        "value": value,
        **_centred_spread(value, parts),
        "n": sum(row["n"] for row in parts),
        "chance": 0.0,
        "higher_is_better": True,
        "is_mean": False,
        "members": [row["task"] for row in parts],
        "pooled": False,
    }
    return [figure | {"centred": value}]


def _centred_spread(value: float, parts: list[dict]) -> dict:
    """{se, df, ci_low, ci_high} of a mean of independent tasks' centred scores, with Satterthwaite's df."""
    if any(row["se"] is None for row in parts):
        return NO_SPREAD
    varying = [row for row in parts if row["se"] > 0]
    shares = np.array([(row["se"] / (1 - row["chance"]) / len(parts)) ** 2 for row in varying])
    se = float(np.sqrt(shares.sum()))
    if not varying:
        return NO_SPREAD | {"se": se}
    df = float(shares.sum() ** 2 / np.sum(shares**2 / [row["df"] for row in varying]))
    interval = t_interval(value, se, sum(row["n"] for row in parts), df=df)
    low, high = within(interval, -math.inf, 1.0)  # 1: every answer is right
    return {"se": se, "df": df, "ci_low": low, "ci_high": high}


def _aggregates(group: Group, items: pandas.DataFrame, rows: list[dict]) -> list[dict]:
    """The figures of a group: the macro mean over its tasks, or the mean over items if it weights tasks by size."""
    members = [short_name(task.task_name) for task in group.get_all_tasks()]
    figures = []
    aggregates = [
        (aggregate, label(aggregate.metric, name))
        for aggregate in group.aggregate_metric_list or []
        for name in _filters(aggregate)
    ]
    for aggregate, metric in aggregates:
        parts = [row for row in rows if row["task"] in members and row["metric"] == metric]
        if len(parts) != len(members) or not all(part["is_mean"] for part in parts):
            continue
        found = items[items["task"].isin(members) & (items["metric"] == metric)]
        arrays = [found[column].to_numpy() for column in ("score", "weight", "task", "cluster")]
        if aggregate.weight_by_size:
            arrays[2] = np.zeros(len(found))  # one pool of items
        guess = _mean_or_none([part["chance"] for part in parts]) if not aggregate.weight_by_size else None
        value = macro_mean(*arrays[:3])
        figures.append(
            {
                "task": group.name,
                "metric": metric,
                "value": value,
                **_spread(*arrays),
                "n": len(found),
                "chance": guess,
                "centred": _above_chance(value, guess),
                "higher_is_better": parts[0]["higher_is_better"],
                "is_mean": True,
                "members": members,
                "pooled": aggregate.weight_by_size,
            }
        )
    return figures


def _filters(aggregate: Any) -> list[str]:
    """The filters of an aggregate: lm-eval calls the absence of a filter `none`."""
    return aggregate.filter_list or ["none"]


def _above_chance(value: float, guess: float | None) -> float | None:
    """The share of what guessing leaves; None if that is unknown, or nothing, as with a single choice."""
    return None if guess is None or guess == 1 else (value - guess) / (1 - guess)


def _number(value: float) -> float | None:
    """None for NaN, which JSON lacks."""
    return None if math.isnan(value) else value


def _mean_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
