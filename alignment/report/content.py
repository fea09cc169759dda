"""report.json: what a run directory holds, in one object."""

import math
import shlex
from pathlib import Path
from typing import Any

from alignment.durable.read import read_json, read_json_lines
from alignment.errors import UserError
from alignment.models.checkpoints import is_adapter_folder
from alignment.pipeline.recipes.pipeline_file import read_settings
from alignment.pipeline.records.record import FILE
from alignment.pipeline.stage_spec import is_smoke
from alignment.report.charts.frontiers import logged_frontiers
from alignment.report.charts.pareto_figures import pareto_points
from alignment.report.comparisons import compared
from alignment.report.first_screen.trained_on import training_data
from alignment.report.headlines import headlines, name_suites
from alignment.report.labels import makes_rows
from alignment.report.made_data.rows_read import made_rows
from alignment.report.runs.base_runs import BASE, first_model, outside_model, with_base
from alignment.report.runs.run_files import figure_of, read_pipeline, read_stage
from alignment.report.samples import PROMPTS, side_by_side
from alignment.report.side_runs import side_runs
from eval.frontier.scaling_fits import best_of_n_fits
from eval.harness.store import read_record
from reward_models.card.card import CARD_FILE

STAGE_KEYS = (
    "checkpoint",
    "parent",
    "method",
    "seconds",
    "peak_memory_gb",
    "trainable_parameters",
    "total_parameters",
    "tokens",
    "metrics",
    "faults",
)
RECORD_KEYS = (
    "status",
    "error",
    "seed",
    "recipe",
    "recipe_digest",
    "checkpoint_digest",
    "versions",
    "git",
    "hardware",
    "micro_batch",
)
EVAL_KEYS = (
    "suite",
    "suite_source",
    "format",
    "stage",
    "variant",
    "suite_digest",
    "checkpoint_digest",
    "template_digest",
    "seeds",
    "versions",
    "seconds",
)
FIGURE_KEYS = ("task", "metric", "value", "se", "ci_low", "ci_high", "n", "chance", "higher_is_better")
CURVE_POINTS = 400
RUNS_NAMED = 8  # of a folder of run directories, in the message that refuses it
PRODUCTS = ("checkpoint", "data")  # the folders of what a stage makes


def collect(run_dir: str | Path) -> dict:
    """Collect the content of report.json from a run directory, finished or not.

    Raises:
        UserError: the folder is not a run directory.
    """
    run_dir = Path(run_dir)
    pipeline = run_record(run_dir)
    stages = {
        name: entry | {"rows": _rows(run_dir / name, entry)} for name, entry in run_stages(run_dir, pipeline).items()
    }
    names = list(stages)
    records, unreadable = eval_records(run_dir, names)
    chosen = pipeline.get("report") or {}
    base, headline, samples = chosen.get("base"), chosen.get("headline") or {}, chosen.get("samples") or {}
    base_model = outside_model(stages) if base in (None, BASE) else None
    records, has_base = with_base(run_dir, records, stages, base_model)
    base = base or (BASE if has_base else first_model(records, stages))
    own = {records[name]["suite"] for name in pipeline["evals"] if name in records}
    suites = [samples["suite"]] if samples.get("suite") else _suites(records, pipeline)
    metrics = {name: _read_lines(run_dir / name / "metrics.jsonl") for name in names}
    cards = {name: card for name in names if (card := _reward_card(run_dir / name, stages[name]))}
    rows = [row for record in records.values() for row in scores(record, headline.get(record["suite"]))]
    plotted = chosen.get("pareto")
    comparisons, refused, regressions = compared(run_dir, records, base, headline)
    report = {
        "name": pipeline.get("name") or run_dir.resolve().name,
        "run_dir": str(run_dir),
        "recipe_dir": _pipeline_folder(pipeline.get("recipe"), names),
        "inputs": pipeline.get("inputs") or {},
        "seed": pipeline.get("seed"),
        "smoke": [name for name in names if is_smoke(stages[name]["recipe"] or {})],
        "base": base,
        "base_model": base_model,
        "further_suites": sorted({record["suite"] for record in records.values()} - own) if own else [],
        "stages": stages,
        "evals": rows,
        "eval_runs": [_eval_run(name, record) for name, record in records.items()],
        "comparisons": comparisons,
        "pareto": pareto_points(rows, plotted, [BASE, *names]) if plotted else None,
        "not_compared": refused,
        "unreadable": unreadable,
        "regressions": regressions,
        "samples": side_by_side(run_dir, records, [BASE, *names], suites, samples.get("n", PROMPTS)),
        "curves": {name: curves for name in names if (curves := curves_of(metrics[name]))},
        "frontiers": [found for name in names for found in _frontiers(run_dir / name, metrics[name])],
        "reward_model": next((card for stage in stages.values() if (card := _own_card(stage))), None),
        "reward_cards": cards,
        "judge_cards": {name: card for name in names if (card := _judge_card(stages[name]))},
        "side_runs": side_runs(run_dir, stages, records, headline),
    }
    name_suites(report)
    return finite(report)


def run_record(run_dir: Path) -> dict[str, Any]:
    """pipeline.json, with empty `stages` and `evals` if there is none."""
    path = run_dir / FILE
    return read_pipeline(path) if path.is_file() else {"stages": {}, "evals": {}}


def run_stages(run_dir: Path, pipeline: dict) -> dict[str, dict]:
    """Stage -> its entry in report.json, in the order of the pipeline.

    Raises:
        UserError: the folder has neither stages nor eval runs.
    """
    names = _stage_names(run_dir, pipeline)
    if not names and (inside := _runs_inside(run_dir)):
        raise UserError(
            f"{run_dir} is not a run directory, but a folder of run directories",
            got=", ".join(inside[:RUNS_NAMED]) + (f" and {len(inside) - RUNS_NAMED} more" * (len(inside) > RUNS_NAMED)),
            expected="a run directory; of several, the first is compared with the others",
            fix=f"align report {shlex.quote(inside[0])}",
        )
    if not names and next(run_dir.glob("evals/*/run.json"), None) is None:
        raise UserError(
            f"{run_dir} is not a run directory",
            got="no such folder" if not run_dir.is_dir() else "a folder without pipeline.json, stage.json or evals",
            expected="a folder made by `align run` or `align STAGE`",
            fix="give the --output_dir of the run",
        )
    return {name: _stage(run_dir, name, pipeline, names) for name in names}


def _runs_inside(folder: Path) -> list[str]:
    """The run directories in a folder that is none itself, the last changed first."""
    if (folder / FILE).is_file():
        return []
    found = {
        *(path.parent for path in folder.glob(f"*/{FILE}")),
        *(path.parents[1] for path in folder.glob("*/*/stage.json")),
    }
    return [str(path) for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


def stage_curves(stage: Path) -> dict[str, list]:
    """The logged curves of a stage's folder, as report.json has them."""
    return curves_of(_read_lines(stage / "metrics.jsonl"))


def eval_records(run_dir: Path, stages: list[str]) -> tuple[dict[str, dict], list[dict[str, str]]]:
    """Folder name -> run.json of every finished eval run, in the order of the stages; and those that cannot be read.

    Returns:
        The records, and [{file, reason}]: the run.json of another version, or a damaged one.
    """
    found, unreadable = {}, []
    for path in sorted(run_dir.glob("evals/*/run.json")):
        try:
            found[path.parent.name] = read_record(path.parent)
        except UserError as error:
            reason = f"{error.problem.removeprefix(f'{path} ')}, got {error.got}, expected {error.expected}"
            unreadable.append({"file": str(path), "reason": reason})
    order = {stage: index for index, stage in enumerate(stages)}
    return dict(sorted(found.items(), key=lambda pair: order.get(pair[1]["stage"], len(order)))), unreadable


def _eval_run(name: str, record: dict) -> dict:
    """The row of report.json's `eval_runs`; a base's run may lie outside the run directory."""
    own = {key: record.get(key) for key in EVAL_KEYS}
    return own | {"limit": record["settings"].get("limit"), "in_run_dir": not Path(name).is_absolute()}


def _suites(records: dict[str, dict], pipeline: dict) -> list[str]:
    """The suites that were run, in the order of the pipeline; suites run by hand follow."""
    listed = [records[name]["suite"] for name in pipeline["evals"] if name in records]
    return list(dict.fromkeys([*listed, *(record["suite"] for record in records.values())]))


def scores(record: dict, task: str | None = None) -> list[dict]:
    """The rows of report.json's `evals` for one eval run.

    Args:
        record: the run's run.json.
        task: the task that represents the suite, if it is not the suite's aggregate.
    """
    represent = headlines(record, task)
    shared = {key: record.get(key) for key in ("stage", "suite", "format")}
    return [
        {
            **shared,
            **{key: figure.get(key) for key in FIGURE_KEYS},
            "num_fewshot": (record.get("settings") or {}).get("num_fewshot"),
            "variant": record.get("variant") or {},
            "headline": (figure["task"], figure["metric"]) in represent,
        }
        for figure in record["tasks"]
    ]


def curves_of(metrics: list[dict]) -> dict[str, list]:
    """Logged key -> [[step, value], ...], thinned to at most CURVE_POINTS evenly spaced points."""
    curves: dict[str, list] = {}
    for row in metrics:
        for key, value in row.items():
            if key in ("step", "epoch", "seconds") or figure_of(row.get("step")) is None:
                continue
            if figure_of(value) is not None:
                curves.setdefault(key, []).append([row["step"], float(f"{value:.6g}")])
    return {key: thinned(points) for key, points in curves.items()}


def thinned(points: list, limit: int = CURVE_POINTS) -> list:
    """At most `limit` of the points, evenly spaced, including the first and the last."""
    if len(points) <= limit:
        return points
    return [points[round(index * (len(points) - 1) / (limit - 1))] for index in range(limit)]


def finite(value: Any) -> Any:
    """The same structure with None for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_json(path: Path) -> dict:
    """The object in a file; empty if there is no such file."""
    return read_json(path) if path.is_file() else {}


def _read_lines(path: Path) -> list[dict]:
    """The complete lines of a metrics file; while a stage runs, the last line may be incomplete."""
    return read_json_lines(path) if path.is_file() else []


def _stage_names(run_dir: Path, pipeline: dict) -> list[str]:
    """Stages in the order of the pipeline; stages run by hand follow, oldest first."""
    found = sorted(run_dir.glob("*/stage.json"), key=lambda path: path.stat().st_mtime_ns)
    return list(dict.fromkeys([*pipeline["stages"], *(path.parent.name for path in found)]))


def _stage(run_dir: Path, name: str, pipeline: dict, names: list[str]) -> dict:
    """A stage's entries from stage.json and pipeline.json; None for keys that are missing while it runs."""
    file, entry = run_dir / name / "stage.json", pipeline["stages"].get(name, {})
    ended = read_stage(file) if file.is_file() else {}
    stage = {key: ended.get(key) for key in STAGE_KEYS} | {key: entry.get(key) for key in RECORD_KEYS}
    parents = (ended.get("parents") or {}) | (entry.get("parents") or {})
    parents = {key: _parent(value, run_dir, names) for key, value in parents.items()}
    checkpoint = run_dir / name / "checkpoint"
    return stage | {
        "checkpoint": f"{name}/checkpoint" if checkpoint.is_dir() else None,
        "parent": _parent(ended.get("parent"), run_dir, names) or parents.get("model_name_or_path"),
        "parents": parents,
        "data": _training_data(run_dir, name, names),
        **_made_as(checkpoint),
        "seconds": ended.get("seconds") or entry.get("seconds"),
        "status": entry.get("status") or ("done" if ended else None),
    }


def _rows(stage: Path, entry: dict) -> dict | None:
    """The rows that a data stage made; None for a stage that trains."""
    if not makes_rows(stage.name, entry["method"]):
        return None
    return made_rows(stage, entry["metrics"] or {}, entry["tokens"])


def _training_data(run_dir: Path, name: str, names: list[str]) -> dict | None:
    """What a stage read, with the names of the stages that made its rows instead of their folders."""
    return training_data(run_dir / name, lambda source: _parent(source, run_dir, names) or source)


def _pipeline_folder(recipe_dir: str | None, names: list[str]) -> str | None:
    """The recipe folder whose whole pipeline was run; None if there is none, or if stages were run on their own."""
    if recipe_dir is None:
        return None
    try:
        stages = read_settings(Path(recipe_dir)).stages
    except UserError:  # the folder has been moved, changed, or is not one of a pipeline
        return None
    return recipe_dir if stages and stages.keys() <= set(names) else None


def _made_as(checkpoint: Path) -> dict:
    """Whether a checkpoint is an adapter, and its model type if it is a whole model."""
    config = _read_json(checkpoint / "config.json")
    return {"adapter": is_adapter_folder(checkpoint), "architecture": config.get("model_type")}


def _frontiers(stage: Path, metrics: list[dict]) -> list[dict]:
    """The frontier in STAGE/frontier.json (of `align frontier --json`), or otherwise those of the stage's log."""
    measured = _read_json(stage / "frontier.json")
    return [measured] if measured else logged_frontiers(stage.name, metrics)


def _reward_card(stage: Path, entry: dict) -> dict | None:
    """A reward stage's card, with the later results of `align reward-card`: another card, or only best of n."""
    own, later = _own_card(entry), _read_json(stage / "reward_card" / CARD_FILE)
    card = later if later.get("n") or not own else own | later
    if not card.get("best_of_n"):
        return card or None
    return card | {"best_of_n_fits": best_of_n_fits(card["best_of_n"])}


def _own_card(entry: dict) -> dict | None:
    """The card that a reward stage made when it finished."""
    return (entry["metrics"] or {}).get("pairwise")


def _judge_card(entry: dict) -> dict | None:
    """The card that a judge stage made when it finished, with the names of its judges."""
    metrics = entry["metrics"] or {}
    card = metrics.get("judge_card")
    return card and {"judges": metrics.get("judges") or []} | card


def _parent(value: str | None, run_dir: Path, names: list[str]) -> str | None:
    """The stage of a checkpoint or of rows in this run directory; any other parent, such as a hub id, unchanged."""
    path = Path(value or "")
    if path.name in PRODUCTS and path.parent.name in names and path.parents[1].name == run_dir.resolve().name:
        return path.parent.name
    return value
