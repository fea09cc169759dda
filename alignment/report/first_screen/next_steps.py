"""Commands to continue with after a run: chat, compare or evaluate, another seed, export."""

import shlex
from pathlib import Path

from alignment.report.labels import stage_name
from alignment.report.runs.base_runs import BASE, makes_language_model, model_name
from alignment.report.tables import listed
from alignment.stages import CAUSAL_LM, STAGES

OWN_ARCHITECTURE = "alignment_gpt"  # GPTConfig.model_type, whose import takes seconds


def next_steps(report: dict) -> list[dict]:
    """[{what, why, command, again: whether it repeats the run}]; empty before there is a checkpoint or data."""
    last, unread = last_model(report), _unread_rows(report)
    steps = [_train_on(report, unread)] if unread else []
    if last is None:
        return [*steps, *filter(None, [_again(report)])] if steps else []
    chat = _step("Chat", f"with the {stage_name(last)} model", "align", "chat", _checkpoint(report, last))
    after = [_measure(report, last), _base_too(report, last), _again(report), _share(report, last)]
    return [step for step in [chat, *steps, *after] if step]


def last_model(report: dict) -> str | None:
    """The last finished stage of the run that made a language model."""
    finished = [
        name
        for name, stage in report["stages"].items()
        if stage.get("checkpoint") and stage.get("status") == "done" and makes_language_model(name, stage)
    ]
    return finished[-1] if finished else None


def _unread_rows(report: dict) -> str | None:
    """The last data stage whose rows no stage of the run reads, and a stage can train on."""
    named = {parent for stage in report["stages"].values() for parent in (stage.get("parents") or {}).values()}
    made = [
        name
        for name, stage in report["stages"].items()
        if name not in named and (stage.get("rows") or {}).get("rows") and _trainer(stage["rows"].get("kind"))
        if not ((stage.get("metrics") or {}).get("judge_card") or {}).get("inherited")  # those are a measurement
    ]
    return made[-1] if made else None


def _trainer(kind: str | None) -> str | None:
    """The first stage that trains a language model on rows of a kind."""
    return next((name for name, facts in STAGES.items() if (facts.data, facts.checkpoint) == (kind, CAUSAL_LM)), None)


def _train_on(report: dict, rows: str) -> dict:
    """Train on rows that the run made, from the model that made them."""
    stage = report["stages"][rows]
    parent = (stage.get("parents") or {}).get("model_name_or_path") or "MODEL"
    model = _checkpoint(report, parent) if (report["stages"].get(parent) or {}).get("checkpoint") else parent
    place = str(Path(report["run_dir"]) / rows / "data")
    command = ("align", str(_trainer(stage["rows"]["kind"])), "--model", model, "--data", place)
    return _step("Train on", f"the rows of {stage_name(rows)}", *command)


def _measure(report: dict, last: str) -> dict | None:
    """Compare the last stage with its parent, or evaluate it if it has not been."""
    compared = [row["a"] for row in [*listed(report, "comparisons"), *report["comparisons"]] if row["b"] == last]
    parent = report["stages"][last].get("parent")
    if not compared and _missing_base(report):
        return None
    if not compared:
        command = ("align", "eval", _checkpoint(report, last), "--suite", "SUITE")
        return _step("Evaluate", "SUITE: a name of docs/suites.md, or a JSONL file of questions", *command)
    first = parent if parent in compared else compared[0]
    sides = [_checkpoint(report, stage) if stage in report["stages"] else _base(report) for stage in (first, last)]
    why = f"{stage_name(last)} with {stage_name(first, report.get('base'))}, item by item"
    return _step("Compare", why, "align", "compare", *sides, "--show", "5")


def _missing_base(report: dict) -> str | None:
    """The model that the run starts from, if it has not been evaluated on what a stage was evaluated on."""
    return None if report.get("base") == BASE else report.get("base_model")


def _base_too(report: dict, last: str) -> dict | None:
    """Evaluate the model that the run starts from on the last stage's suites, so that the next report compares them."""
    model = _missing_base(report)
    if model is None:
        return None
    name = model_name(model)
    command = ["align", "compare", model, _checkpoint(report, last)]
    own = {row["suite"] for row in listed(report, "evals") if row["stage"] == last}
    runs = [run for run in report["eval_runs"] if run["stage"] == last and run["suite"] in own]
    runs = [run for run in runs if not run["variant"]] or runs
    if not runs:
        why = f"{stage_name(last)} with {name}; SUITE: a name of docs/suites.md, or a JSONL file of questions"
        return _step("Compare with the base", why, *command, "--suite", "SUITE")
    suites = dict.fromkeys(run["suite_source"] or run["suite"] for run in runs)
    command += [part for suite in suites for part in ("--suite", suite.replace(f"{Path.cwd()}/", ""))]
    if any(run["format"] == "chat" for run in runs):
        command += ["--chat_template", _checkpoint(report, last)]
    if limit := max(run["limit"] or 0 for run in runs):
        command += ["--limit", str(limit)]
    why = f"{name} has not been evaluated on the questions that {stage_name(last)} was"
    step = _step("Compare with the base", why, *command)
    return step | {"command": f"{step['command']} && {shlex.join(['align', 'report', report['run_dir']])}"}


def _again(report: dict) -> dict | None:
    """The same recipe with the next seed, in a run directory of its own; a smoke run in full."""
    seed, run_dir, recipe = report.get("seed"), report["run_dir"], report.get("recipe_dir")
    if recipe is None:
        return None
    inputs = [part for name, value in (report.get("inputs") or {}).items() for part in (f"--{name}", str(value))]
    run = ["align", "run", recipe, *inputs]
    if report.get("smoke"):
        return _step("Run in full", "without --quick", *run, "--output_dir", run_dir) | {"again": True}
    if seed is None:
        return None
    other = f"{run_dir}-seed-{seed + 1}"
    again = shlex.join([*run, "--seed", str(seed + 1), "--output_dir", other])
    command = f"{again} && {shlex.join(['align', 'report', run_dir, other])}"
    return {"what": "Another seed", "why": "to see how much is chance", "command": command, "again": True}


def _share(report: dict, last: str) -> dict | None:
    """How to get weights that load without this project."""
    stage = report["stages"][last]
    source = _checkpoint(report, last)
    if stage.get("adapter"):
        return _step("Merge", "the adapter into plain weights", "align", "merge", source)
    if stage.get("architecture") == OWN_ARCHITECTURE:
        command = ("align", "export", source, "--to", "self-contained", "--output_dir", f"{report['run_dir']}-export")
        return _step("Export", "weights that load without this project", *command)
    return None


def _base(report: dict) -> str:
    """The base outside the run, as `align compare` finds its evaluations: by its path, or as a stage of the run."""
    here = any(run["stage"] == BASE and run["in_run_dir"] for run in report["eval_runs"])
    return str(Path(report["run_dir"]) / BASE) if here else report["base_model"]


def _checkpoint(report: dict, stage: str) -> str:
    return str(Path(report["run_dir"]) / report["stages"][stage]["checkpoint"])


def _step(what: str, why: str, *command: str) -> dict:
    return {"what": what, "why": why, "command": shlex.join(command), "again": False}
