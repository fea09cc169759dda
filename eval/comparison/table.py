"""Eval figures and comparisons as text tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

from alignment.text import decimal, markdown_table, table
from eval.conditions.left_out import note
from eval.harness.store import variant_words


def eval_table(records: list[dict]) -> str:
    """Format the figures of eval runs (records as `evaluate` returns them) as a table, and what they leave out.

    Runs of several checkpoints have their stage in the first column.
    """
    rows = []
    several = len({record["checkpoint"] for record in records}) > 1
    for record in records:
        whose = [record["stage"] or record["checkpoint"]] if several else []
        for row in record["tasks"]:
            figures = [_number(row["value"]), _number(row["se"]), row["n"]]
            rows.append([*whose, record["suite"], record["format"], row["task"], row["metric"], *figures])
    header = [*(["checkpoint"] if several else []), "suite", "format", "task", "metric", "value", "se", "n"]
    notes = [f"{record['stage']}: {line}" if several else line for record in records for line in note(record)]
    return "\n".join([table(header, rows, rule=True), *notes])


COMPARE_HEADER = [
    "suite",
    "format",
    "task",
    "metric",
    "a",
    "b",
    "b - a",
    "95% interval",
    "p",
    "verdict",
    "detectable",
    "n",
]
COMPARE_NUMBERS = (4, 5, 6, 10, 11, 12)  # columns
COMPARE_NOTE = (
    "p: adjusted over the tasks of a metric in a pair (Holm); better or worse if p <= 0.05, otherwise tied\n"
    "95% interval: of this row alone, not adjusted; the verdict follows p, even if the interval excludes 0\n"
    "detectable: the smallest true difference that these items detect with 80% power\n"
    "intervals and verdicts apply to these checkpoints (one training seed each), not to the training methods"
)
NOT_COMPUTED = (
    "-: cannot be computed: too few items, fewer than 5 clusters, or no variation between them (none changed, or all "
    "alike)"
)
CLUSTERED = (
    "clusters: items that depend on each other (questions about one person) count together in intervals and tests;\n"
    "G clusters of right or wrong items cannot give a p below 2 / 2^G, before it is adjusted"
)
SEVERAL_PAIRS = "{count} pairs, each tested separately: of 20 equal pairs, about one differs by chance on each metric"


def compare_table(rows: list[dict]) -> str:
    """Format comparison rows (as `compare_pairs` returns them) as one table per pair, with notes on the columns."""
    tables = [
        f"{a} -> {b}, paired by item\n{table(_compare_header(found), _compare_cells(found), rule=True)}"
        for (a, b), found in by_pair(rows).items()
    ]
    return "\n\n".join([*tables, _compare_note(rows)]) if len(tables) > 1 else f"{tables[0]}\n{_compare_note(rows)}"


def compare_markdown(comparison: dict) -> str:
    """Format a comparison {comparisons, skipped, gates, flips} as GitHub Markdown, for a pull request comment."""
    parts = []
    for (a, b), rows in by_pair(comparison["comparisons"]).items():
        cells = [[_cell(cell) for cell in row] for row in _compare_cells(rows)]
        shown = markdown_table(_compare_header(rows), cells, right=COMPARE_NUMBERS)
        parts.append(f"### {a} -> {b}, paired by item\n\n{shown}")
    parts.append(_compare_note(comparison["comparisons"]).replace("\n", "  \n"))
    if comparison["gates"]:
        parts.append("\n".join(f"- {_cell(line)}" for line in gate_lines(comparison["gates"])))
    if comparison["skipped"]:
        parts.append("Not compared:\n\n" + "\n".join(f"- {_cell(line)}" for line in comparison["skipped"]))
    for flip in comparison["flips"]:
        texts = [f"{label}:\n\n{_fenced(text)}" for label, text in _flip_texts(flip)]
        parts.append("\n\n".join([f"#### {_cell(_flip_title(flip))}", *texts]))
    return "\n\n".join(parts) + "\n"


def gate_lines(gates: list[dict]) -> list[str]:
    """Format each outcome of `check_gates` as a line."""
    lines = []
    for gate in gates:
        where = " ".join([gate["suite"], gate["format"], *variant_words(gate["variant"])])
        loss = f"{'worse' if gate['loss'] > 0 else 'better'} by {abs(gate['loss']):.4f}"
        found = f"verdict {gate['verdict']}"
        if gate["strict"]:
            found = "no interval" if gate["loss_high"] is None else f"at worst {_signed(gate['loss_high'])} worse"
        lines.append(
            f"{'FAILED' if gate['failed'] else 'passed'}  {gate['gate']}: {gate['task']}/{gate['metric']} ({where}), "
            f"{gate['a']} -> {gate['b']}: {loss if gate['loss'] else 'no difference'}, {found}"
        )
    return lines


LONGEST_TEXT = 400  # characters of a prompt or output on the terminal


def flips_text(flips: list[dict], count: int | None = None) -> str:
    """Format changed items one below the other; texts are JSON strings, so that line ends are visible.

    Of a long text the beginning and the end are shown: the question is often the last line of a prompt.

    Args:
        count: number of items that changed, if not all are given.
    """
    blocks, cut = [], False
    for flip in flips:
        texts = _flip_texts(flip)
        width = max(len(label) for label, _ in texts) + 1
        shown = [f"  {label + ':':{width}} {_shortened(text)}" for label, text in texts]
        cut = cut or any(len(text) > LONGEST_TEXT for _, text in texts)
        blocks.append("\n".join([_flip_title(flip), *shown]))
    if not flips:
        blocks.append("no item with a reply changed" if count else "no item changed")
    elif count and count > len(flips):
        blocks.append(f"{len(flips)} of {count:,} changes are shown; --show N shows others")
    if cut:
        blocks.append("long texts are cut: --md FILE, --html FILE and --json FILE write them in full")
    return "\n\n".join(blocks)


def _shortened(text: str) -> str:
    """A text as a JSON string, or as two if its middle is left out."""
    if len(text) <= LONGEST_TEXT:
        return json.dumps(text, ensure_ascii=False)
    half = LONGEST_TEXT // 2
    first, last = (json.dumps(part, ensure_ascii=False) for part in (text[:half], text[-half:]))
    return f"{first} ... ({len(text) - 2 * half:,} characters) ... {last}"


def stored_line(folders: list[Path]) -> str:
    """Say where the items of runs are stored; the runs of one folder together."""
    names = {folder.parent: [one.name for one in folders if one.parent == folder.parent] for folder in folders}
    places = [f"{parent}/{some[0] if len(some) == 1 else '*'}/items.parquet" for parent, some in names.items()]
    return f"each item with its prompt, reply and score: {', '.join(places)}"


def by_pair(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """Group comparison rows by the names of the two sides."""
    pairs: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        pairs.setdefault((row["a"], row["b"]), []).append(row)
    return pairs


def _compare_cells(rows: list[dict]) -> list[list]:
    shown, clustered = [], _clustered(rows)
    for row in rows:
        values = [_number(row["value_a"]), _number(row["value_b"]), _signed(row["delta"])]
        interval = "-" if row["ci_low"] is None else f"[{_signed(row['ci_low'])}, {_signed(row['ci_high'])}]"
        p = "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        found = [interval, p, row["verdict"], _number(row["mde"])]
        way = " ".join([row["format"], *variant_words(row["variant"])])
        counts = [*([row.get("clusters", row["n"])] if clustered else []), row["n"]]
        shown.append([row["suite"], way, row["task"], row["metric"], *values, *found, *counts])
    return shown


def _clustered(rows: list[dict]) -> bool:
    """Whether items share clusters in any row; rows of reports of earlier versions have no count."""
    return any(row.get("clusters", row["n"]) != row["n"] for row in rows)


def _compare_header(rows: list[dict]) -> list[str]:
    """The names of the columns of `_compare_cells`."""
    return [*COMPARE_HEADER[:-1], *(["clusters"] if _clustered(rows) else []), COMPARE_HEADER[-1]]


def _compare_note(rows: list[dict]) -> str:
    lines, pairs = [COMPARE_NOTE], len(by_pair(rows))
    if any(None in (row["ci_low"], row["p_holm"], row["mde"]) for row in rows):
        lines.append(NOT_COMPUTED)
    if _clustered(rows):
        lines.append(CLUSTERED)
    if pairs > 1:
        lines.append(SEVERAL_PAIRS.format(count=pairs))
    reasons = dict.fromkeys(row["reason"] for row in rows if row["reason"])
    return "\n".join(
        [*lines, *(f"unknown: {reason}" for reason in reasons), *_left_out_lines(rows), *endpoint_lines(rows)]
    )


def endpoint_lines(rows: list[dict]) -> list[str]:
    """A line for each side that is behind an endpoint: which weights and which chat template it has is unknown."""
    found = {(row[side], name): None for row in rows for side, name in row.get("endpoints", {}).items()}
    return [
        f"{side} is {name}, an endpoint: its weights, tokenizer and chat template are unknown" for side, name in found
    ]


def _left_out_lines(rows: list[dict]) -> list[str]:
    """A line for each task of which a side left items out; rows of reports of earlier versions have no count."""
    counts = {
        (row["suite"], row["format"], row["task"]): (row["left_out"], row["left_out"] + row["n"])
        for row in rows
        if row.get("left_out")
    }
    return [
        f"left out: {gone} of {whole} items of {task} ({suite} {way}) do not fit into the context of a side; the "
        "others are paired"
        for (suite, way, task), (gone, whole) in counts.items()
    ]


def _flip_title(flip: dict) -> str:
    way = " ".join([flip["format"], *variant_words(flip["variant"])])
    scores = f"{flip['score_a']:.4g} -> {flip['score_b']:.4g}"
    return f"{flip['change']}: {flip['task']} {flip['item_id']} ({flip['suite']} {way}, {flip['metric']} {scores})"


def _flip_texts(flip: dict) -> list[tuple[str, str]]:
    return [
        ("prompt", flip["prompt"]),
        ("expected", flip["target"]),
        (flip["a"], flip["output_a"]),
        (flip["b"], flip["output_b"]),
    ]


def _cell(value: object) -> str:
    """A cell's text, escaped for a Markdown table."""
    return re.sub(r"([|\\`*_<\[\]])", r"\\\1", str(value)).replace("\n", " ")


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def side_table(sides: dict[str, dict]) -> str:
    """Format figures about the replies of a win rate's two sides as a table, one row per side."""
    names = list(next(iter(sides.values())))
    rows = [[side.upper(), *[_number(figures[name]) for name in names]] for side, figures in sides.items()]
    return table(["replies", *names], rows, rule=True)


def frontier_table(points: list[dict], peak: dict | None) -> str:
    """Format a frontier's points as a table; a star marks the highest smoothed gold reward."""
    rows = [
        [
            point["step"],
            *[_number(point[name]) for name in ("kl", "distance", "proxy", "gold", "gold_smoothed")],
            "*" if peak and peak["index"] == place else "",
        ]
        for place, point in enumerate(points)
    ]
    return table(["step", "KL", "sqrt(KL)", "proxy", "gold", "smoothed", ""], rows, rule=True)


def _number(value: float | None) -> str:
    return decimal(value, 4)


def _signed(value: float | None) -> str:
    return decimal(value, 4, sign=True)
