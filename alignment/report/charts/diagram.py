"""The pipeline as a picture: one box per stage, an arrow from each parent."""

from html import escape

from alignment.report.charts.figure_files import figure
from alignment.report.first_screen.trained_on import amount_text
from alignment.report.labels import count, duration, stage_name

BOX, GAP, HIGH, ROW_GAP, HEAD = 172, 34, 88, 18, 34
NAME_LETTERS, LINE_LETTERS = 20, 27  # that fit a box


def pipeline_svg(stages: dict[str, dict]) -> str:
    """Stages in columns by depth, with time, parameters or rows, and peak memory in each box."""
    places = _places(stages)
    width = max(x for x, _ in places.values()) + BOX + 2
    lowest = max(y for _, y in places.values()) + HIGH
    pairs = [(places[parent], places[name]) for name, stage in stages.items() for parent in _parents(stage, stages)]
    tops = {x: min(y for other, y in places.values() if other == x) for x, _ in places.values()}
    edges = [_edge(start, end, start[1] > tops[start[0]], lowest) for start, end in pairs]
    below = any(_is_long(start, end) and start[1] > tops[start[0]] for start, end in pairs)
    height = lowest + (HEAD if below else 2)
    boxes = [_box(name, stage, *places[name]) for name, stage in stages.items()]
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0,0 L8,4 L0,8 Z"/></marker></defs>'
    )
    return (
        f'<svg class="diagram" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'style="--natural: {width}px">'
        f"<title>Stages of the pipeline and their parents</title>{marker}{''.join(edges + boxes)}</svg>"
    )


def pipeline_figure(stages: dict[str, dict]) -> dict:
    """The pipeline's picture as a figure, with its numbers."""
    keys = ("method", "seconds", "peak_memory_gb", "trainable_parameters", "total_parameters", "tokens")
    rows = [
        [
            name,
            " ".join(_parents(stage, stages)),
            *(stage.get(key) for key in keys),
            (stage.get("rows") or {}).get("rows"),
        ]
        for name, stage in stages.items()
    ]
    return figure("Pipeline", "", pipeline_svg(stages), [["stage", "parents", *keys, "rows"], *rows])


def _parents(stage: dict, stages: dict[str, dict]) -> list[str]:
    """The distinct parents that are stages of this run."""
    named = [stage.get("parent"), *(stage.get("parents") or {}).values()]
    return [name for name in dict.fromkeys(named) if name in stages]


def _depth(name: str, stages: dict[str, dict], seen: frozenset[str] = frozenset()) -> int:
    """The column of a stage; a record in which a stage is its own ancestor, by a damaged lineage, has an end too.

    Args:
        seen: the stages between this one and the one whose depth is asked for.
    """
    seen |= {name}
    parents = [parent for parent in _parents(stages[name], stages) if parent not in seen]
    return 1 + max((_depth(parent, stages, seen) for parent in parents), default=-1)


def _places(stages: dict[str, dict]) -> dict[str, tuple[float, float]]:
    """Upper left corner of each box; columns are centred vertically."""
    columns: dict[int, list[str]] = {}
    for name in stages:
        columns.setdefault(_depth(name, stages), []).append(name)
    tallest = max(len(names) for names in columns.values())
    head = HEAD if any(_skips(name, stages) for name in stages) else 1
    places: dict[str, tuple[float, float]] = {}
    for depth, names in columns.items():
        offset = (tallest - len(names)) * (HIGH + ROW_GAP) / 2
        for row, name in enumerate(names):
            places[name] = (1 + depth * (BOX + GAP), head + offset + row * (HIGH + ROW_GAP))
    return places


def _skips(name: str, stages: dict[str, dict]) -> bool:
    return any(_depth(name, stages) - _depth(parent, stages) > 1 for parent in _parents(stages[name], stages))


def _is_long(start: tuple[float, float], end: tuple[float, float]) -> bool:
    return end[0] - start[0] > BOX + GAP + 1


def _edge(start: tuple[float, float], end: tuple[float, float], below: bool, lowest: float) -> str:
    """A curve from side to side; if it skips a column, over the top, or below all boxes if a box is above its start."""
    if _is_long(start, end):
        x1, x2 = start[0] + BOX / 2, end[0] + BOX / 2
        y1, y2, middle = start[1], end[1] - 2, HEAD * 0.55
        if below:
            y1, y2, middle = start[1] + HIGH, end[1] + HIGH + 2, lowest + HEAD * 0.45
        lift = (middle - 0.125 * (y1 + y2)) / 0.75
        path = f"M{x1},{y1} C{x1},{lift:.1f} {x2},{lift:.1f} {x2},{y2}"
    else:
        x1, y1, x2, y2 = start[0] + BOX, start[1] + HIGH / 2, end[0] - 2, end[1] + HIGH / 2
        path = f"M{x1},{y1} C{x1 + GAP / 2},{y1} {x2 - GAP / 2},{y2} {x2},{y2}"
    return f'<path class="edge" d="{path}" marker-end="url(#tip)"/>'


def _box(name: str, stage: dict, x: float, y: float) -> str:
    memory = stage.get("peak_memory_gb")
    cost = duration(stage.get("seconds")) + (f", {memory:.2f} GB peak" if memory is not None else "")
    method = stage.get("method") or ""
    lines = [method if method != name else "", cost, _size(stage)]
    texts = "".join(
        f'<text x="{x + 12}" y="{y + 41 + 18 * row}">{escape(_cut(line, LINE_LETTERS))}</text>'
        for row, line in enumerate(line for line in lines if line)
    )
    return (
        f'<rect class="box" x="{x}" y="{y}" width="{BOX}" height="{HIGH}" rx="7"/>'
        f'<text class="stage" x="{x + 12}" y="{y + 22}">{escape(_cut(stage_name(name), NAME_LETTERS))}</text>{texts}'
    )


def _size(stage: dict) -> str:
    """What a stage trained, or the rows that it made."""
    made = stage.get("rows")
    if made:
        return amount_text(made["rows"], made.get("kind")) if made.get("rows") is not None else ""
    total, trained = stage.get("total_parameters"), stage.get("trainable_parameters")
    if total and trained is not None and trained < total:
        return f"{count(trained)} of {count(total)} trained"
    return f"{count(total if total is not None else trained)} parameters" if total or trained else ""


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "\N{HORIZONTAL ELLIPSIS}"
