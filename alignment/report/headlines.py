"""The figures of an eval run that represent its suite in the report, and those whose texts name it."""

from alignment.report.labels import metric_of


def headlines(record: dict, task: str | None = None) -> set[tuple[str, str]]:
    """(task, metric) of the figures that represent a suite.

    Args:
        record: an eval run's run.json.
        task: the task that pipeline.yaml's `evals.headline` names for this suite.

    Returns:
        The figures of `task`; by default, for each metric, the aggregate with the most members. A suite without
        aggregates is represented by the task with its name, or by its only task.
    """
    figures = record["tasks"]
    if task is not None:
        return {(figure["task"], figure["metric"]) for figure in figures if figure["task"] == task}
    widest: dict[str, dict] = {}
    for figure in figures:
        best = widest.get(figure["metric"])
        if figure.get("members") and (best is None or len(figure["members"]) > len(best["members"])):
            widest[figure["metric"]] = figure
    lone = len({figure["task"] for figure in figures}) == 1
    found = {(figure["task"], metric) for metric, figure in widest.items()}
    for figure in figures:
        if figure["metric"] not in widest and (lone or figure["task"] == record["suite"]):
            found.add((figure["task"], figure["metric"]))
    return found


def name_suites(content: dict) -> None:
    """Set `suite_named` in all rows of a report or comparison: whether several suites have one metric and format.

    The texts and columns of all rows then name their suite. `content` has `comparisons`, and may have `evals` and
    `side_runs`.
    """
    rows = [*content.get("evals", []), *content["comparisons"]]
    rows += [row for side in content.get("side_runs", []) for row in side["comparisons"]]
    suites: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["headline"]:
            suites.setdefault((metric_of(row["metric"]).name, row["format"]), set()).add(row["suite"])
    shared = any(len(found) > 1 for found in suites.values())
    for row in rows:
        row["suite_named"] = shared
