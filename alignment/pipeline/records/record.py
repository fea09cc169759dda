"""pipeline.json: what was run in a run directory, made from what, and how it ended."""

import json
from collections.abc import Collection, Mapping
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

    def ancestors(self, name: str, planned: Mapping[str, Collection[str]] | None = None) -> set[str]:
        """Return the stages of this run directory that a stage was trained from, through all generations.

        Args:
            planned: stage -> its parents in a run that is about to start, instead of the recorded ones.
        """
        known, found, following = {**self._parents(), **(planned or {})}, set[str](), [name]
        while following:
            parents = {self._stage_of(value) for value in known.get(following.pop(), ())}
            new = (parents & known.keys()) - found
            found |= new
            following += new
        return found

    def _parents(self) -> dict[str, Collection[str]]:
        """Stage -> its parents: stages, paths and hub ids."""
        return {name: [*map(str, (entry.get("parents") or {}).values())] for name, entry in self.stages.items()}

    def _stage_of(self, parent: str) -> str:
        """The stage that a parent's path names, if it is a checkpoint of this run directory; otherwise the parent."""
        path = Path(parent)
        within = path.name == "checkpoint" and path.parent.parent.resolve() == self.path.parent.resolve()
        return path.parent.name if within else parent

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
