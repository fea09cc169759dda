"""pipeline.json: what has been run in a run directory, from what, and how it ended."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.durable.files import write_text
from alignment.durable.read import read_json
from alignment.errors import UserError

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


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep a second `align` from writing into the same run directory; the lock ends with the process."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another align is at work in {run_dir}", mend="wait for it, or choose another --output_dir"
            ) from error
        yield
