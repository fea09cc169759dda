"""What a run directory shows: report.json, and report.html rendered from it."""

from pathlib import Path


def write_report(run_dir: str | Path) -> Path:
    """Write RUN_DIR/report.json and RUN_DIR/report.html anew, each whole or not at all; returns the page's path.

    Raises:
        UserError: the folder is no run directory.
    """
    import json

    from alignment.report.collect import collect
    from alignment.report.render import render

    report = collect(run_dir)
    _replace(Path(run_dir) / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return _replace(Path(run_dir) / "report.html", render(report))


def _replace(path: Path, text: str) -> Path:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    return new.replace(path)
