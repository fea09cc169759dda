"""Compare run directories stage by stage: the content of `align report A B`."""

from pathlib import Path
from typing import Any

from alignment.errors import UserError, gathered, raise_all
from alignment.pipeline.stage_spec import is_smoke
from alignment.report.content import eval_records, run_record, run_stages, stage_curves
from alignment.report.headlines import headlines, name_suites
from alignment.report.runs.made_differently import differences
from eval.comparison.compare import compare
from eval.comparison.find import measurement
from eval.harness.store import Run, load_run


def compare_runs(folders: list[Path]) -> dict[str, Any]:
    """Compare each run directory with the first.

    Returns:
        {runs: [{name, run_dir, seed, stages, smoke}], comparisons: rows of eval.comparison.compare, where a and b are
        names of runs, with `stage` and `headline`; not_compared: [{a, b, stage, what, reason}]; differences: [{a, b,
        stages, key, values: [a's, b's]}]; curves: {stage: {run: {logged key: points}}}}.

    Raises:
        UserError: a folder is not a run directory, or is given twice; all mistakes together.
    """
    _require_distinct(folders)
    names = run_names(folders)
    errors: list[UserError] = []
    runs: list[dict] = []
    for folder, name in zip(folders, names, strict=True):
        with gathered(errors):
            runs.append(_read(folder, name))
    raise_all(errors)
    first, others = runs[0], runs[1:]
    rows, refused, changes = [], [], []
    for other in others:
        pairs, only = _pairs(first, other)
        refused += [
            _refused(first, other, (None, entry["file"]), entry["reason"])
            for run in (first, other)
            for entry in run["unreadable"]
        ]
        refused += only
        for folder_a, folder_b in pairs:
            found, reason = _compared(first, other, folder_a, folder_b)
            rows += found
            refused += reason
        changes += differences(first, other)
    public = [
        {key: run[key] for key in ("name", "run_dir", "seed", "smoke")} | {"stages": [*run["stages"]]} for run in runs
    ]
    comparison = {
        "runs": public,
        "comparisons": rows,
        "not_compared": refused,
        "differences": changes,
        "curves": _curves(runs),
    }
    name_suites(comparison)
    return comparison


def run_names(folders: list[Path]) -> list[str]:
    """A name for each run directory: its folder's, with as many parent folders as make it unique."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _require_distinct(folders: list[Path]) -> None:
    places = [folder.resolve() for folder in folders]
    twice = next((folder for folder in places if places.count(folder) > 1), None)
    if twice is not None:
        raise UserError("a run cannot be compared with itself", got=twice, expected="different run directories")


def _read(folder: Path, name: str) -> dict[str, Any]:
    """A run directory's record, stages and eval runs."""
    pipeline = run_record(folder)
    stages = run_stages(folder, pipeline)
    records, unreadable = eval_records(folder, list(stages))
    return {
        "name": name,
        "folder": folder,
        "run_dir": str(folder),
        "seed": pipeline.get("seed"),
        "pipeline": pipeline,
        "stages": stages,
        "headline": (pipeline.get("report") or {}).get("headline") or {},
        "evals": records,
        "unreadable": unreadable,
        "smoke": [stage for stage, entry in stages.items() if is_smoke(entry["recipe"] or {})],
    }


def _key(record: dict) -> tuple:
    return (record["stage"], *measurement(record))


def _pairs(first: dict, other: dict) -> tuple[list[tuple[str, str]], list[dict]]:
    """The eval runs of both that measure the same thing on the same stage, and those that only one run has."""
    own, theirs = ({_key(record): name for name, record in run["evals"].items()} for run in (first, other))
    only = [
        _refused(first, other, key, f"only {run['name']} has it")
        for run, keys, missing in ((first, own, theirs), (other, theirs, own))
        for key in keys
        if key not in missing
    ]
    evaluated = {key[0] for key in [*own, *theirs]}
    only += [
        _refused(first, other, (stage,), "neither run has evaluated it")
        for stage, entry in first["stages"].items()
        if stage in other["stages"] and stage not in evaluated and entry.get("trainable_parameters")
    ]
    return [(own[key], theirs[key]) for key in own if key in theirs], only


def _refused(first: dict, other: dict, key: tuple, reason: str) -> dict:
    stage, *what = key
    names = {"a": first["name"], "b": other["name"]}
    return names | {"stage": stage, "what": " ".join(part for part in what if part), "reason": reason}


def _compared(first: dict, other: dict, folder_a: str, folder_b: str) -> tuple[list[dict], list[dict]]:
    """The comparison of two eval runs, or why they cannot be compared."""
    record = other["evals"][folder_b]
    represent = headlines(record, first["headline"].get(record["suite"]))
    about = {"a": first["name"], "b": other["name"], "stage": record["stage"]}
    try:
        found = compare(_load(first, folder_a), _load(other, folder_b))
    except UserError as error:
        return [], [_refused(first, other, _key(record), error.problem.rstrip("."))]
    return [row | about | {"headline": (row["task"], row["metric"]) in represent} for row in found], []


def _load(run: dict, name: str) -> Run:
    return load_run(run["folder"] / "evals" / name)


def _curves(runs: list[dict]) -> dict[str, dict[str, dict]]:
    """Stage -> run -> its logged curves, for stages that several runs have."""
    curves: dict[str, dict[str, dict]] = {}
    for run in runs:
        for stage in run["stages"]:
            if found := stage_curves(run["folder"] / stage):
                curves.setdefault(stage, {})[run["name"]] = found
    return {stage: found for stage, found in curves.items() if len(found) > 1}
