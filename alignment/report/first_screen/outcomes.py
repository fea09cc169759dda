"""Whether each stage helped: its figures against its parent's, in words, and what became worse elsewhere."""

from alignment.report.first_screen.trained_on import amount_text, data_text
from alignment.report.labels import (
    BITS,
    count,
    delta_text,
    duration,
    metric_of,
    percent,
    stage_name,
    suite_prefix,
    value_text,
)
from alignment.report.runs.base_runs import BASE, MODEL, model_name
from alignment.report.tables import is_whole, listed, order
from eval.comparison.intervals import wilson

WORSE_SHOWN = 2  # figures that became worse, at most; the others are counted
LEVELS = 2  # scores named, at most, of a stage without a parent to compare with


def outcomes(report: dict) -> list[dict]:
    """One entry per stage, in the order of the stages, after one for an evaluated base outside the run.

    Further suites, in addition to those of the pipeline, do not count here.

    Returns:
        [{name, status: None if it is done, data, cost: tokens, parameters and time, against: the parent's name, main:
        {text, verdict} of the first headline figure, others: the same of each other metric's first figure unless it is
        worse, also: {verdict: [name]} of the remaining headline figures, worse: [text], more_worse: their further
        number, note: the text of a stage without such figures}].
    """
    stages = report["stages"]
    outside: dict[str, dict] = {BASE: {}} if report.get("base") == BASE and BASE not in stages else {}
    return [_outcome(report, name, stage) for name, stage in (outside | stages).items()]


def in_sum(report: dict) -> dict | None:
    """The headline differences of the last stage that was compared with the base stage; None without one."""
    base = report.get("base")
    rows = listed(report, "comparisons")
    own = [row for row in rows if row["a"] == base and row.get("headline") and not row.get("variant")]
    compared = [name for name in report["stages"] if any(row["b"] == name for row in own)]
    if not compared:
        return None
    rows = [row for row in sorted(own, key=order) if row["b"] == compared[-1]]
    rows = list(_firsts(rows).values())
    title = f"{stage_name(compared[-1])} against {base_name(report)}"
    return {"title": title, "items": [_shown(row) for row in rows]}


def base_name(report: dict) -> str:
    """`base (pretrain)`, or `base` if that is the stage's own name; of a base outside the run, its model's name."""
    outside = report.get("base_model") if report["base"] == BASE else None
    base = model_name(outside) if outside else stage_name(report["base"])
    return base if base == "base" else f"base ({base})"


def row_text(row: dict) -> str:
    """`chat accuracy +52.1 points [49.0, 55.2]`; a figure that is not a whole suite's has its task's name."""
    return f"{row_name(row)} {delta_text(row)}"


def row_name(row: dict) -> str:
    """A difference's figure in words: `chat accuracy`, `arithmetic, chat`."""
    if row.get("headline") or is_whole(row):
        return f"{suite_prefix(row)}{_level_name(row)}"
    extra = "" if metric_of(row["metric"]).rank == 0 else f" {metric_of(row['metric']).name}"
    return ", ".join([f"{row['task'].replace('_', ' ')}{extra}", row["format"]])


def _outcome(report: dict, name: str, stage: dict) -> dict:
    rows = [row for row in listed(report, "comparisons") if row["b"] == name and not row.get("variant")]
    parents = {row["a"] for row in rows}
    parent = stage.get("parent") if stage.get("parent") in parents else min(parents, default=None)
    own = [row for row in rows if row["a"] == parent]
    heads = sorted((row for row in own if row.get("headline")), key=order)
    firsts = list(_firsts(heads).values())
    worse = _worse(heads[1:], own, heads[0] if heads else None)
    also: dict[str, list[str]] = {}
    for row in heads:
        if row not in firsts and row["verdict"] != "worse":
            also.setdefault(row["verdict"], []).append(row_name(row))
    return {
        "name": stage_name(name),
        "status": None if stage.get("status") in ("done", None) else stage["status"],
        "data": _data(report, stage) or (_outside(report) if name == BASE and not stage else None),
        "cost": _cost(stage),
        "against": stage_name(parent, report.get("base")) if parent else None,
        "main": _shown(heads[0]) if heads else None,
        "others": [_shown(row) for row in firsts[1:] if row["verdict"] != "worse"],
        "also": also,
        "worse": [row_text(row) for row in worse[:WORSE_SHOWN]],
        "more_worse": max(0, len(worse) - WORSE_SHOWN),
        "note": None if heads else _note(report, name, stage),
    }


def _data(report: dict, stage: dict) -> str | None:
    """What a stage was trained on; what a data stage read."""
    text = data_text(stage.get("data"), report["stages"])
    return f"not trained; read {text}" if text and stage.get("rows") else text


def _shown(row: dict) -> dict:
    return {"text": row_text(row), "verdict": row["verdict"]}


def _firsts(rows: list[dict]) -> dict[tuple, dict]:
    """The first row of each metric of a suite: in chat format, if the suite was run in it."""
    found: dict[tuple, dict] = {}
    for row in rows:
        found.setdefault((row["suite"], row["metric"]), row)
    return found


def _cost(stage: dict) -> str:
    """Tokens, trained parameters if not all, and time."""
    trained, total = stage.get("trainable_parameters"), stage.get("total_parameters")
    part = trained and total and trained < total
    facts = [
        f"{count(stage['tokens'])} tokens" if stage.get("tokens") else None,
        f"{count(trained)} of {count(total)} parameters" if part else None,
        duration(stage["seconds"]) if stage.get("seconds") else None,
    ]
    return ", ".join(fact for fact in facts if fact)


def _worse(heads: list[dict], own: list[dict], main: dict | None) -> list[dict]:
    """Figures that became worse, apart from the main one: of suites, then of tasks, the largest change first.

    Tasks count if their mean is the suite's headline: where pipeline.yaml names one task as the headline, growth on
    the others is not a cost (bits per byte of rude text).
    """
    fallen = [row for row in heads if row["verdict"] == "worse"]
    mean = {(row["suite"], row["metric"]) for row in [*heads, *([main] if main else [])] if row.get("aggregate")}
    tasks = [
        row
        for row in own
        if row["verdict"] == "worse"
        and not row.get("headline")
        and not row.get("aggregate")
        and (row["suite"], row["metric"]) in mean
    ]
    return [*fallen, *sorted(tasks, key=lambda row: (metric_of(row["metric"]).rank, -abs(row["delta"])))]


def _note(report: dict, name: str, stage: dict) -> str:
    """What to say of a stage that was compared with none."""
    if stage.get("rows"):
        return _rows_note(stage["rows"]) + _judge_note(stage.get("metrics") or {})
    pairs = (stage.get("metrics") or {}).get("pairwise") or {}
    if pairs.get("n"):
        return _pairs_note(pairs)
    metrics = stage.get("metrics") or {}
    if metrics.get("vocab_size"):
        per = f", {metrics['bytes_per_token']:.2f} bytes per token" if metrics.get("bytes_per_token") else ""
        return f"{metrics['vocab_size']:,} tokens{per}"
    refused = [pair for pair in report.get("not_compared") or [] if pair["b"] == name]
    if refused:
        return f"not compared with {stage_name(refused[0]['a'])}: {refused[0]['reason']}"
    levels = [row for row in listed(report, "evals") if row["stage"] == name]
    levels = [row for row in levels if row.get("headline") and not row.get("variant")]
    if levels:
        shown = [f"{suite_prefix(row)}{_level_name(row)} {_level(row)}" for row in sorted(levels, key=order)]
        if name == report.get("base"):
            return f"the starting point: {', '.join(shown[:LEVELS])}"
        return f"{', '.join(shown)}{_alone(report, stage)}"
    return "not evaluated" if stage.get("status") == "done" else ""


def _outside(report: dict) -> str:
    return f"not trained here: {model_name(report['base_model'])}"


def _alone(report: dict, stage: dict) -> str:
    """A note on a stage's score if the model that it starts from has none on the same questions."""
    parent = (stage.get("parents") or {}).get(MODEL)
    if parent is None or report.get("base") == BASE:
        return ""
    name = stage_name(parent) if parent in report["stages"] else model_name(parent)
    return f"; {name}, which it starts from, was not evaluated on the same questions"


def _level_name(row: dict) -> str:
    return metric_of(BITS).name if row["metric"] == BITS else f"{row['format']} {metric_of(row['metric']).name}"


def _level(row: dict) -> str:
    percents = "%" if metric_of(row["metric"]).unit == "points" else ""
    return f"{value_text(row['metric'], row.get('value'))}{percents}"


def _rows_note(rows: dict) -> str:
    """`made 34 preference pairs of 60 rows`, and what is wrong with them."""
    problem = f"; {rows['problem']}" if rows.get("problem") else ""
    if rows.get("rows") is None:
        return f"no rows{problem}"
    of = f" of {rows['read']:,} rows" if rows.get("read") is not None else ""
    return f"made {amount_text(rows['rows'], rows.get('kind'))}{of}{problem}"


def _judge_note(metrics: dict) -> str:
    """A judge's agreement with gold, or who prefers a policy how often; empty for other stages, and without gold."""
    card = metrics.get("judge_card") or {}
    found, gain = card.get("agreement") or {}, card.get("inherited") or {}
    if gain.get("n"):
        judge, gold = (percent(gain[key]["value"]) for key in ("judge_wins", "gold_wins"))
        return f"; prefers {gain['policy']} over {gain['baseline']} on {judge} of {gain['n']:,} pairs, gold on {gold}"
    if found.get("value") is None:
        return ""
    value, low, high = (percent(found[key]) for key in ("value", "low", "high"))
    return f"; agrees with gold on {value} [{low}, {high}] of {found['n']:,} pairs"


def _pairs_note(pairs: dict) -> str:
    """A reward model's accuracy on held-out pairs, with Wilson's interval, and that of a rule that sees lengths."""
    accuracy, n = pairs["accuracy"], pairs["n"]
    interval = ""
    if n > 1 and accuracy is not None:
        low, high = wilson(accuracy, (accuracy * (1 - accuracy) / (n - 1)) ** 0.5, n)
        interval = f" [{percent(low)}, {percent(high)}]"
    rule = ""
    if pairs.get("length_baseline") is not None:
        rule = f"; always preferring the {pairs.get('length_rule')} reply: {percent(pairs['length_baseline'])}"
    return f"ranks {percent(accuracy)}{interval} of {n:,} held-out pairs correctly{rule}"
