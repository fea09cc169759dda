"""A run's state as text for the terminal: stages, the current stage's figures with sparklines, evaluations."""

import shlex
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from alignment.report.charts.figures import CHARTS
from alignment.report.first_screen.trained_on import amount_text
from alignment.report.labels import duration, stage_name
from alignment.report.live.run_state import DIED, ENDED, RUNNING, WAITING, RunState, StageState
from alignment.report.runs.run_files import figure_of
from alignment.text import rough_duration

BARS = "\N{LOWER ONE EIGHTH BLOCK}\N{LOWER ONE QUARTER BLOCK}\N{LOWER THREE EIGHTHS BLOCK}\N{LOWER HALF BLOCK}"
BARS += "\N{LOWER FIVE EIGHTHS BLOCK}\N{LOWER THREE QUARTERS BLOCK}\N{LOWER SEVEN EIGHTHS BLOCK}\N{FULL BLOCK}"
WIDTH = 32  # of a sparkline
FIGURES = 6  # at most
RESULTS = ("reward", "eval_accuracy", "eval_bits_per_byte", "eval_loss", "train_loss")  # the first that a stage has
STYLES = {"done": "green", "running": "bold cyan", "failed": "bold red", "interrupted": "yellow", "died": "bold red"}


def screen(state: RunState, waits: bool = False) -> RenderableType:
    """What `align watch` shows of a run at one time, but for the closing lines.

    Args:
        waits: it waits for a run that is not there yet.
    """
    if state.status == WAITING:
        stop = " (Ctrl-C stops waiting)" if waits else ""
        return Text(f"{state.run_dir}: no run there yet; it appears once its recipes are checked{stop}")
    parts: list[RenderableType] = [Text(f"{state.name} in {state.run_dir}: {headline(state)}", style="bold")]
    if state.stages:
        parts.append(stage_table(state))
    current = state.current
    if current is not None and current.rows:
        parts += [Text(""), figure_table(current)]
    if state.evals:
        parts += [Text(""), Text(evals_text(state.evals, state.status == DIED))]
    return Group(*parts)


def headline(state: RunState) -> str:
    """What the run is doing, or how it ended."""
    if state.status == ENDED:
        return "finished"
    current, unfinished = state.current, [entry for entry in state.evals if entry.get("status") not in (None, "done")]
    if current is not None:
        name, status = stage_name(current.name), current.status
    elif unfinished:
        name, status = f"evaluation {unfinished[0]['name']}", unfinished[0]["status"]
    else:
        return "between two stages"
    if state.status == RUNNING:
        return f"{name} is running{_left(current)}"
    return f"died while {name} was running" if state.status == DIED else f"{name}: {status}"


def _left(stage: StageState | None) -> str:
    return (
        ""
        if stage is None or stage.remaining is None
        else f", about {rough_duration(stage.remaining)} left in this stage"
    )


def stage_table(state: RunState) -> Table:
    """A row per stage: status, progress, time, and a figure of its result."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("stage", "status", "progress", "time", "result"):
        table.add_column(head, no_wrap=head != "result")
    for stage in state.stages:
        status = "died" if state.status == DIED and stage.status == "running" else stage.status
        cells = (status, progress_text(stage), "" if stage.seconds is None else duration(stage.seconds))
        style = STYLES.get(status, "")
        rest = (Text(text) for text in (*cells[1:], result_text(stage)))  # a Text: brackets in an error are no markup
        table.add_row(Text(stage_name(stage.name)), Text(cells[0], style=style), *rest)
    return table


def progress_text(stage: StageState) -> str:
    """`step 120 of 400 (30%)`; of a data stage the parts of its rows."""
    if stage.parts is not None:
        return f"{stage.parts:,} {'part' if stage.parts == 1 else 'parts'} of its rows made"
    if stage.step is None:
        return "" if stage.status == "done" else "no step logged yet"
    whole = "" if stage.steps is None else f" of {stage.steps:,}"
    share = "" if stage.share is None else f" ({stage.share:.0%})"
    return f"step {stage.step:,}{whole}{share}"


def result_text(stage: StageState) -> str:
    """A finished stage's main figure, or the error of a failed one; of a data stage the rows that it made."""
    if stage.error:
        return stage.error[:160]
    made, kind = stage.metrics.get("rows"), stage.metrics.get("kind")
    if figure_of(made) is not None:
        return amount_text(made, kind if isinstance(kind, str) else None)
    key = next((key for key in RESULTS if isinstance(stage.metrics.get(key), int | float)), None)
    return "" if key is None else f"{key} {stage.metrics[key]:.4g}"


def figure_table(stage: StageState) -> Table:
    """The stage's main logged figures: name, curve, newest value."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, values in main_figures(stage.rows)[:FIGURES]:
        table.add_row(Text(name), Text(sparkline(values), style="cyan"), Text(f"{values[-1]:.4g}"))
    return table


def main_figures(rows: Sequence[dict]) -> list[tuple[str, list[float]]]:
    """(name, values) of the report's charts that the stage has logged, training before held out."""
    logged: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                logged.setdefault(key, []).append(float(value))
    found: dict[str, list[float]] = {}
    for chart in CHARTS:
        if chart.unless in logged:
            continue
        for key, label in chart.lines:
            if key in logged and key not in found:
                name = f"{chart.title}, {label}" if len(chart.lines) > 1 else chart.title
                found[name] = logged[key]
    return sorted(found.items(), key=lambda pair: pair[0].endswith("held out"))


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as a line of bars from the lowest to the highest; long series are averaged in `width` parts."""
    count = min(width, len(values))
    parts = [values[index * len(values) // count : (index + 1) * len(values) // count] for index in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((mean - low) / span * len(BARS)))] for mean in means)


def evals_text(evals: Sequence[dict], died: bool = False) -> str:
    """`evaluations: 8 done (the newest: sft-tinyworld-chat); running: sft-tinyworld_bpb-plain`.

    Args:
        died: no process works on those that are recorded as running.
    """
    by_status: dict[str, list[str]] = {}
    for entry in evals:
        status = entry.get("status") or "done"
        by_status.setdefault("died" if died and status == "running" else status, []).append(entry["name"])
    done = by_status.pop("done", [])
    newest = f" (the newest: {done[-1]})" if done else ""
    return "; ".join(
        [f"evaluations: {len(done)} done{newest}", *(f"{k}: {', '.join(v)}" for k, v in by_status.items())]
    )


def closing_lines(state: RunState) -> list[str]:
    """What to do once a run is over; lines to print without wrapping, since commands are copied from them."""
    if state.status == ENDED:
        page = state.run_dir / "report.html"
        command = shlex.join(["align", "report", str(state.run_dir)])
        return ["", f"report: {page}" if page.is_file() else f"for its report: {command}"]
    if not state.resume:
        return []
    why = "No process works on it any more (killed, or the machine went down). " if state.status == DIED else ""
    commands = [f"  {command}  # {what}" for what, command in state.resume.items()]
    return ["", f"{why}To resume, repeat the command that was run, with its options:", *commands]
