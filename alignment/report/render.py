"""Renders the content of report.json as a self-contained HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.report import labels, provenance, tables
from alignment.report.charts import figure_files, figures
from alignment.report.charts.diagram import pipeline_figure
from alignment.report.charts.frontiers import frontier_section
from alignment.report.charts.judge_figures import judge_section
from alignment.report.charts.pareto_figures import pareto_section
from alignment.report.charts.reward_figures import card_section
from alignment.report.first_screen.next_steps import next_steps
from alignment.report.first_screen.outcomes import in_sum, outcomes
from alignment.report.first_screen.smoke import WARNING, smoke_text
from alignment.report.first_screen.trained_on import model_text
from alignment.report.made_data.rows_sections import rows_sections
from alignment.report.runs.base_runs import BASE
from alignment.report.side_sections import side_sections

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_OUTPUT = 500


def render(report: dict) -> str:
    """Render a report of `content.collect` as a page without external files."""
    return template_environment().get_template("report.html.jinja").render(page(report))


def template_environment() -> "Environment":
    """jinja2's environment for the templates: with escaping and the filters that they use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": labels.duration,
        "count": labels.count,
        "number": labels.number,
        "visible": visible,
        "svg_uri": figure_files.svg_uri,
        "csv_uri": figure_files.csv_uri,
        "file_name": figure_files.file_name,
    }
    return environment


def page(report: dict) -> dict:
    """The template's variables, by section; the page omits empty sections."""
    stages, by_task = report["stages"], tables.task_tables(report)
    return {
        "report": report,
        "style": page_style(),
        "model": model_text(report),
        "outcomes": outcomes(report),
        "in_sum": in_sum(report),
        "smoke": {"title": WARNING, "text": text} if (text := smoke_text(report)) else None,
        "next_steps": next_steps(report),
        "side_runs": side_sections(report),
        "stage_names": {stage: labels.stage_name(stage) for stage in stages},
        "total_seconds": sum(times) if (times := [s["seconds"] for s in stages.values() if s.get("seconds")]) else None,
        "facts": provenance.facts(report),
        "verdicts": tables.verdicts(report),
        "diagram": pipeline_figure(stages) if stages else None,
        "suites": tables.suite_table(report),
        "pareto": pareto_section(report),
        "further": {"suites": tables.suite_table(report, True), "verdicts": tables.verdicts(report, True)},
        "base_text": base_text(report),
        "task_tables": [table for table in by_task if table["metric"] != labels.BITS],
        "bits": [table for table in by_task if table["metric"] == labels.BITS],
        "forests": tables.forests(report, whole=True),
        "task_forests": tables.forests(report, whole=False),
        "regressions": tables.regressions(report),
        "score_figures": figures.score_figures(report),
        "tax": figures.tax_figures(report),
        "frontiers": [frontier_section(found) for found in report.get("frontiers") or []],
        "cards": [card_section(stage, card) for stage, card in (report.get("reward_cards") or {}).items()],
        "judges": [judge_section(stage, card) for stage, card in (report.get("judge_cards") or {}).items()],
        "made": rows_sections(report),
        "training": training_sections(report.get("curves") or {}),
        "sample_stages": list(dict.fromkeys(stage for sample in report["samples"] for stage in sample["outputs"])),
        "provenance": provenance.stage_rows(report),
        "fault_lines": provenance.fault_lines(report),
        "eval_runs": provenance.suite_rows(report),
        "versions": provenance.version_lines(report),
    }


def base_text(report: dict) -> str | None:
    """What “base” means on the page; None without a base."""
    base = report.get("base")
    if base is None:
        return None
    outside = report.get("base_model") if base == BASE else None
    return f"{outside}, which this run starts from" if outside else f"the {base} stage"


def training_sections(curves: dict) -> list[dict]:
    """Each stage's name and training figures."""
    drawn = {stage: figures.training_figures({stage: logged}) for stage, logged in curves.items()}
    return [{"name": labels.stage_name(stage), "figures": found} for stage, found in drawn.items() if found]


def page_style() -> str:
    """The style sheet of a page: the charts' colours, then the page's own rules."""
    return "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("charts.css", "style.css"))


def visible(text: str | None) -> "Markup":
    """Model output for a table cell: escaped, with visible line ends, and cut if it is very long."""
    from markupsafe import Markup, escape

    if not text:
        return Markup('<span class="muted">(empty)</span>')
    cut = escape(text[:LONGEST_OUTPUT]).replace(
        "\n", Markup('<span class="nl">\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}</span>\n')
    )
    rest = len(text) - LONGEST_OUTPUT
    return (
        cut + Markup(f'<span class="muted"> \N{HORIZONTAL ELLIPSIS} {rest} more characters</span>') if rest > 0 else cut
    )
