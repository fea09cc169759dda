"""What report.json says of the rows of a data stage: counts, histograms of their scores, and a few examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.read import read_json
from alignment.errors import UserError
from alignment.report.runs.run_files import figure_of

if TYPE_CHECKING:
    import numpy as np
    from pyarrow.parquet import ParquetFile

ACCOUNT, LEFT_OUT = "account.json", "left_out.jsonl"
SCORES = ("score", "score_chosen", "score_rejected", "score_margin", "preference")
SHARED = ("score_chosen", "score_rejected")  # on one axis, to be drawn together
TEXTS = ("prompt", "messages", "completion", "chosen", "rejected", "reply_a", "reply_b")
STEPS = ("steps", "judged")  # lists of {name: text or number}: what a critic wrote, what judges answered
SHORT = 40  # characters of a text that needs no line of its own
BINS, EXAMPLES = 20, 5
LONGEST = 2000  # characters of a text in an example


def made_rows(stage: Path, metrics: dict[str, Any], tokens: int | None) -> dict[str, Any] | None:
    """The rows of a stage's folder; None if it has made none yet.

    Damaged and missing files are named in `problem`; what can be read is returned.

    Args:
        metrics: of stage.json.
        tokens: of stage.json.

    Returns:
        {rows, read, kind, counts: {reason: number}, tokens, examples: [{text or value by column}], scores: {column:
        {edges, counts, n, missing, mean}}, left_out: number of rows in left_out.jsonl, problem: text or None}.
    """
    folder, problems = stage / "data", []
    try:
        account = read_json(folder / ACCOUNT) if (folder / ACCOUNT).is_file() else {}
    except UserError as error:
        account, problems = {}, [error.problem]
    known = {key: value for key, value in metrics.items() if value is not None}
    found = {**account, **known}
    if not folder.is_dir() and not known:
        return None
    scores, examples, problem = _of_files(folder)
    problems += [problem] if problem else []
    counts = found.get("counts")
    return {
        "rows": figure_of(found.get("rows")),
        "read": figure_of(found.get("read")),
        "kind": found.get("kind") if isinstance(found.get("kind"), str) else None,
        "counts": {str(key): value for key, value in counts.items() if figure_of(value) is not None}
        if isinstance(counts, dict)
        else {},
        "tokens": figure_of(found.get("tokens")) if tokens is None else tokens,
        "examples": examples,
        "scores": scores,
        "left_out": _lines(folder / LEFT_OUT),
        "problem": "; ".join(problems) or None,
    }


def _lines(path: Path) -> int:
    """The number of lines of a file; 0 if there is none."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _of_files(folder: Path) -> tuple[dict[str, dict], list[dict], str | None]:
    """(histograms, examples, what is wrong) of the Parquet files in a folder."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        return {}, [], f"no rows in {folder.parent.name}/{folder.name}"
    try:
        files = [ParquetFile(path) for path in paths]
        return score_histograms(files), examples_of(files), None
    except (pyarrow.ArrowException, OSError) as error:  # ArrowInvalid: a file that is cut or is not Parquet
        return {}, [], f"rows of {folder.parent.name}/{folder.name} cannot be read ({str(error)[:120]})"


def score_histograms(files: Sequence[ParquetFile]) -> dict[str, dict]:
    """Column -> histogram, of the columns in SCORES that hold numbers."""
    values = {column: found for column in SCORES if (found := _numbers(files, column)) is not None}
    known = [values[column] for column in SHARED if column in values]
    return {column: histogram(own, known if column in SHARED else [own]) for column, own in values.items()}


def histogram(values: np.ndarray, shared: Sequence[np.ndarray]) -> dict[str, Any]:
    """How many values are in each of BINS equal ranges; NaN and infinities count as missing.

    Args:
        shared: the values that the ranges span.
    """
    import numpy as np

    own = values[np.isfinite(values)]
    spanned = np.concatenate([one[np.isfinite(one)] for one in shared])
    result: dict[str, Any] = {"n": len(own), "missing": len(values) - len(own)}
    if not len(own):
        return result | {"mean": None, "edges": [], "counts": []}
    low, high = float(spanned.min()), float(spanned.max())
    if 0 <= low <= high <= 1:  # probabilities, shares, right or wrong
        low, high = 0.0, 1.0
    counts, edges = np.histogram(own, bins=BINS if low < high else 1, range=(low, high))
    rounded = [float(f"{edge:.6g}") for edge in edges]
    return result | {"mean": float(own.mean()), "edges": rounded, "counts": counts.tolist()}


def _numbers(files: Sequence[ParquetFile], column: str) -> np.ndarray | None:
    """A column of all files, None as NaN; None if it is not there or does not hold numbers."""
    import numpy as np
    from pyarrow import types

    parts: list[np.ndarray] = []
    for file in files:
        if column not in file.schema_arrow.names:
            return None
        kind = file.schema_arrow.field(column).type
        if not (types.is_floating(kind) or types.is_integer(kind) or types.is_null(kind)):
            return None
        values = file.read(columns=[column]).column(column).to_pylist()
        parts.append(np.array([np.nan if value is None else value for value in values], dtype=float))
    return np.concatenate(parts)


def examples_of(files: Sequence[ParquetFile], count: int = EXAMPLES) -> list[dict]:
    """Rows at even distances over all files, each {column: text, number or flag}."""
    total = sum(file.metadata.num_rows for file in files)
    wanted = sorted({number * total // count for number in range(count)}) if total else []
    return [_example(row) for row in _rows_at(files, wanted)]


def _rows_at(files: Sequence[ParquetFile], wanted: Sequence[int]) -> Iterator[dict]:
    first = 0
    for file in files:
        past = first + file.metadata.num_rows
        own = [number - first for number in wanted if first <= number < past]
        if own:
            yield from file.read().take(own).to_pylist()
        first = past


def _example(row: dict) -> dict:
    """A row's texts, cut to LONGEST characters, and its numbers and flags; other columns are left out."""
    shown: dict[str, Any] = {}
    for column, value in row.items():
        if column in (*TEXTS, *STEPS):
            continue
        if isinstance(value, str):
            shown[column] = value[:LONGEST]
        elif isinstance(value, bool) or figure_of(value) is not None:
            shown[column] = value
    texts = {column: said(row[column])[:LONGEST] for column in TEXTS if row.get(column)}
    messages = row.get("messages")
    if "chosen" in texts:
        texts.pop("messages", None)  # the conversation of the chosen reply
    elif isinstance(messages, list) and len(messages) > 1:
        del texts["messages"]
        texts |= {"prompt": said(messages[:-1])[:LONGEST], "completion": said(messages[-1:])[:LONGEST]}
    texts |= {column: steps_text(row[column])[:LONGEST] for column in STEPS if isinstance(row.get(column), list)}
    return {column: texts[column] for column in (*TEXTS, *STEPS) if texts.get(column)} | shown


def steps_text(steps: list) -> str:
    """Entries of {name: text or number} as text: a line for each entry, or for each long text."""
    lines = []
    for step in steps:
        values = {key: value for key, value in step.items() if value is not None} if isinstance(step, dict) else {}
        words = [
            f"{key}: {value:.3g}" if isinstance(value, float) else f"{key}: {value}" for key, value in values.items()
        ]
        long = any(len(word) > SHORT for word in words)
        lines += words if long else [", ".join(words)]
    return "\n".join(lines)


def said(value: Any) -> str:
    """A text or a list of messages as text; the role is shown if there are several messages."""
    if not isinstance(value, list):
        return str(value)
    messages = [message if isinstance(message, dict) else {"content": message} for message in value]
    if len(messages) == 1:
        return str(messages[0].get("content") or "")
    return "\n".join(f"{message.get('role') or 'text'}: {message.get('content') or ''}" for message in messages)
