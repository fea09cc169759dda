"""pipeline.json: what was run in a run directory, made from what, and how it ended."""

import json
from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_text
from alignment.durable.read import read_json
from alignment.durable.unwritable import make_folder

FILE = "pipeline.json"


class RunRecord:
    """The content of RUN_DIR/pipeline.json; every change is written to disk at once, as a whole file."""

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
        """Set keys of the run itself."""
        self.content |= values
        self.save()

    def replace(self, part: str, name: str, **values: Any) -> None:
        """Replace the entry of a stage or an evaluation."""
        self.content[part][name] = values
        self.save()

    def update(self, part: str, name: str, **values: Any) -> None:
        """Set keys in the entry of a stage or an evaluation."""
        self.content[part][name] |= values
        self.save()

    def save(self) -> None:
        make_folder(self.path.parent)
        write_text(self.path, json.dumps(self.content, indent=2, default=str) + "\n")
