"""The model outside a run directory that its first stage starts from, and that model's eval runs, wherever they are."""

import logging
from pathlib import Path

from alignment.errors import UserError
from alignment.pipeline.recipes.pipeline_file import BASE
from alignment.report.labels import stage_facts
from alignment.stages import CAUSAL_LM
from eval.comparison.find import measurement, records_of

logger = logging.getLogger(__name__)
MODEL = "model_name_or_path"  # the recipe key of the model that a stage starts from
COMPARED_SETTINGS = ("limit", "num_fewshot")


def makes_language_model(name: str, stage: dict) -> bool:
    """Whether a stage's checkpoint is a language model; so is that of a stage of unknown method."""
    facts = stage_facts(name, stage.get("method"))
    return (facts.checkpoint if facts else CAUSAL_LM) == CAUSAL_LM


def outside_model(stages: dict[str, dict]) -> str | None:
    """The path or hub id of the model that the first language model starts from, if no stage of the run made it."""
    first = next((stage for name, stage in stages.items() if makes_language_model(name, stage)), {})
    model = (first.get("parents") or {}).get(MODEL)
    return model if BASE not in stages and model not in stages else None


def model_name(model: str) -> str:
    """The short name of a model: a hub id, or the name of its folder, for RUN/STAGE/checkpoint that of the stage."""
    path = Path(model)
    if path.name == "checkpoint" and path.parent.name:
        return path.parent.name
    return path.name if model.startswith(("/", ".", "~")) or path.exists() or len(path.parts) > 2 else model


def with_base(
    run_dir: Path, records: dict[str, dict], stages: dict[str, dict], model: str | None
) -> tuple[dict[str, dict], bool]:
    """Add the eval runs of the outside model that measure what the stages' runs measure, as those of a stage BASE.

    They may lie in the run directory (of a pipeline that evaluates `base`, or of `align eval --output_dir`), in the
    model's own run directory, or in runs/evals.

    Args:
        records: folder name -> run.json of the eval runs of the run directory.
        model: of `outside_model`.

    Returns:
        The records, those of BASE first, by their absolute folder if they lie elsewhere; and whether there are any.
    """
    if model is None:
        return records, False
    here = {name: record for name, record in records.items() if record["stage"] == BASE or _is_of(record, model)}
    found = here | {str(folder): record for folder, record in _elsewhere(model, run_dir).items()}
    base: dict[str, dict] = {}
    for record in records.values():
        if record["stage"] not in stages:
            continue
        free = {name: other for name, other in found.items() if name not in base and _asked(other) == _asked(record)}
        same = [name for name, other in free.items() if measurement(other) == measurement(record)]
        for name in [*same, *free][:1]:
            base[name] = found[name] | {"stage": BASE, "parent": None, "variant": record.get("variant") or {}}
    children = {name for name, stage in stages.items() if (stage.get("parents") or {}).get(MODEL) == model}
    own = {
        name: record | ({"parent": BASE} if record["stage"] in children else {})
        for name, record in records.items()
        if name not in base
    }
    return base | own, bool(base)


def first_model(records: dict[str, dict], stages: dict[str, dict]) -> str | None:
    """The first evaluated stage if it starts from random weights; None if its parent could have been evaluated."""
    first = next((record["stage"] for record in records.values()), None)
    if first not in stages:
        return None
    stage = stages[first]
    parents = {(stage.get("parents") or {}).get(MODEL), stage.get("parent")} - {None}
    models = [name for name in parents if name not in stages or makes_language_model(name, stages[name])]
    return None if models else first


def _asked(record: dict) -> tuple:
    """What a run asked, in which template: only the scores of runs that asked the same are of the same questions."""
    variant = {
        key: value for key, value in (record.get("variant") or {}).items() if key not in ("chat_template", "limit")
    }
    template = record.get("template_digest") if record["format"] == "chat" else None
    settings = [record["settings"].get(key) or None for key in COMPARED_SETTINGS]
    return (*measurement(record | {"variant": variant}), record["suite_digest"], template, *settings)


def _is_of(record: dict, model: str) -> bool:
    given = record.get("checkpoint") or ""
    return given == model or (Path(model).is_dir() and Path(given).resolve() == Path(model).resolve())


def _elsewhere(model: str, run_dir: Path) -> dict[Path, dict]:
    """Folder -> run.json of the model's eval runs outside the run directory."""
    try:
        found = records_of(Path(model).expanduser() if model.startswith("~") else model)
    except (UserError, OSError) as error:
        logger.warning("the evaluations of %s are passed over: %s", model, error)
        return {}
    return {folder: record for folder, record in found.items() if run_dir.resolve() not in folder.resolve().parents}
