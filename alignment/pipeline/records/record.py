"""pipeline.json: what has been run in a run directory, from what, and how it ended."""

import json
from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_text
from alignment.durable.read import read_json

FILE = "pipeline.json"


class RunRecord:
    """The content of RUN_DIR/pipeline.json; every change is on disk, whole, before the next thing happens."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / FILE
        self.content: dict[str, Any] = {"stages": {}, "evals": {}}
        if self.path.exists():
            self.content |= read_json(self.path, "move the run directory away, or restore the file")

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        return self.content["stages"]

    @property
    def evals(self) -> dict[str, dict[str, Any]]:
        return self.content["evals"]

    def describe_run(self, **values: Any) -> None:
        self.content |= values
        self.save()

    def replace(self, part: str, name: str, **values: Any) -> None:
        """Start the entry of a stage or an eval anew."""
        self.content[part][name] = values
        self.save()

    def update(self, part: str, name: str, **values: Any) -> None:
        self.content[part][name] |= values
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.content, indent=2, default=str) + "\n")
