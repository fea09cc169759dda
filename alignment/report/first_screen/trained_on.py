"""What each stage was trained on, from its data.json, and the model in words."""

from collections.abc import Callable, Collection
from pathlib import Path

from alignment.durable.read import read_json
from alignment.report.labels import count, stage_name
from alignment.report.runs.base_runs import model_name

DATA_FILE, FURTHER = "data.json", "data-*.json"  # the stage's rows; rows mixed between them (data-replay.json)
NOUNS = {
    "text": "documents",
    "sft": "conversations",
    "preference": "preference pairs",
    "prompts": "prompts",
    "kto": "labelled replies",
}
NAMED = 2  # sources, at most, by name


def training_data(stage: Path, named: Callable[[str], str] = str) -> dict | None:
    """What a stage trained on: {kind, splits: {split: rows}, sources: [name], labels, mixed: {what: the same}}.

    `labels` is the column with the probabilities of the pairs' labels, if they are soft.

    None if the stage left no account of its data.

    Args:
        named: returns the name of a source: that of the stage for a folder that a stage of the run wrote.
    """
    own = stage / DATA_FILE
    if not own.is_file():
        return None
    further = {path.stem.removeprefix("data-"): _account(path, named) for path in sorted(stage.glob(FURTHER))}
    return _account(own, named) | {"mixed": further}


def _account(path: Path, named: Callable[[str], str]) -> dict:
    content = read_json(path)
    trained = [entry for entry in content.get("accounts") or [] if entry.get("split") == "train"]
    sources = list(dict.fromkeys(named(str(entry["source"])) for entry in trained if entry.get("source")))
    account = {"kind": content.get("kind"), "splits": content.get("splits") or {}, "sources": sources}
    return account | ({"labels": content["labels"]} if content.get("labels") else {})


def data_text(data: dict | None, stages: Collection[str] = ()) -> str | None:
    """`9,000 conversations of tinyworld:sft, with 4,500 documents of tinyworld:pretrain (replay)`.

    Args:
        stages: the stages of the run, some of which may be sources: `57 preference pairs of the stage samples`.
    """
    if not data:
        return None
    mixed = [f"{_rows_text(account, stages)} ({what})" for what, account in (data.get("mixed") or {}).items()]
    return ", with ".join([_rows_text(data, stages), *mixed])


def amount_text(rows: float | None, kind: str | None) -> str:
    """`9,000 conversations`; without a number, `conversations`."""
    noun = NOUNS.get(kind or "", "rows")
    return f"{rows:,} {noun}" if rows is not None else noun


def _rows_text(account: dict, stages: Collection[str]) -> str:
    names = [
        f"the stage {stage_name(source)}" if source in stages else source_name(source) for source in account["sources"]
    ]
    names = list(dict.fromkeys(names))
    shown = " and ".join(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    amount = amount_text(account["splits"].get("train"), account.get("kind"))
    labels = f" (labels: {account['labels']})" if account.get("labels") else ""
    return (f"{amount} of {shown}" if shown else amount) + labels


def source_name(source: str) -> str:
    """A source without its options, and a file without its folders: `train.jsonl`, `tinyworld:sft`, `org/data`."""
    plain = source.partition("?")[0]
    return Path(plain).name if Path(plain).suffix or plain.startswith(("/", "./", "../", "~")) else plain


def model_text(report: dict) -> str:
    """The model in one sentence: its size, where it started, and what was trained of it."""
    stages = report["stages"]
    sizes = [stage["total_parameters"] for stage in stages.values() if stage.get("total_parameters")]
    trained = [
        (stage["trainable_parameters"], stage["total_parameters"])
        for stage in stages.values()
        if stage.get("trainable_parameters") and stage.get("total_parameters")
    ]
    size = f"A model of {count(sizes[0])} parameters" if sizes else "A model"
    part = min(trained, key=lambda pair: pair[0] / pair[1], default=None)
    share = ""
    if part and part[0] < part[1]:
        share = f"; adapters train {count(part[0])} parameters ({part[0] / part[1]:.1%})"
    names = " \N{RIGHTWARDS ARROW} ".join(stage_name(name) for name in stages) or "no stage yet"
    return f"{size}, {start_text(stages)}: {names}{share}."


def start_text(stages: dict[str, dict]) -> str:
    """Where the first stage with a model starts: from random weights, or from a checkpoint by name."""
    for stage in stages.values():
        outside = [value for value in (stage.get("parents") or {}).values() if value not in stages]
        if outside:
            return f"starting from {model_name(outside[0])}"
    return "starting from random weights"
