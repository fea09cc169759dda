"""The report of a run directory: report.json, and report.html rendered from it."""

from pathlib import Path


def write_report(run_dir: str | Path) -> Path:
    """Write RUN_DIR/report.json and RUN_DIR/report.html, each atomically; return the page's path.

    Raises:
        UserError: the folder is not a run directory.
    """
    import json

    from alignment.durable.atomic import write_text
    from alignment.redaction import redacted
    from alignment.report.content import collect
    from alignment.report.render import render

    report = redacted(collect(run_dir))
    write_text(Path(run_dir) / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    page = Path(run_dir) / "report.html"
    write_text(page, render(report))
    return page
