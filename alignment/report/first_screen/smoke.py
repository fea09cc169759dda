"""Smoke runs: stages that `--quick` trained for two steps, whose figures mean nothing."""

from alignment.report.labels import stage_name

WARNING = "Smoke run: the figures mean nothing"


def smoke_text(report: dict) -> str | None:
    """What to say of a run with smoke stages; None without any."""
    stages = report.get("smoke") or []
    if not stages:
        return None
    trained = [name for name, stage in report["stages"].items() if stage.get("trainable_parameters")]
    which = "Every stage" if set(trained) <= set(stages) else ", ".join(map(stage_name, stages))
    return f"{which} trained for at most two steps, as with --quick, to see that everything works."
