"""Whether a stored run is of the suite that a name stands for now: two files may have one name, and files change."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from alignment.errors import UserError, raise_all

logger = logging.getLogger(__name__)


def suite_source(spec: str) -> str:
    """A suite as given, with its file and its data as absolute paths."""
    from eval.harness.suite import BUILT_IN, list_suites, parse_suite

    name, options = parse_suite(spec)
    if not name.startswith(BUILT_IN) and name not in list_suites():
        name = str(Path(name).resolve())
    if "data" in options:
        options["data"] = str(Path(options["data"]).expanduser().resolve())
    return "?".join([name, *(["&".join(f"{key}={value}" for key, value in options.items())] if options else [])])


class SuiteNow:
    """A suite as it is now: its settings, functions and rows, which are loaded once per format and options."""

    def __init__(self, spec: str):
        self.spec = spec
        self.digests: dict[str, str] = {}

    def is_in(self, record: dict) -> bool:
        """Whether a run measured what the suite would measure now.

        A suite that cannot be loaded, such as one whose data is elsewhere, counts as the same, with a warning.
        """
        from eval.harness.suite import load_suite, suite_digest

        given = {key: record["settings"].get(key) for key in ("num_fewshot", "suite_args")}
        key = json.dumps([record["format"], given], sort_keys=True)
        try:
            if key not in self.digests:
                self.digests[key] = suite_digest(load_suite(self.spec, record["format"], **given))
        except UserError as error:
            logger.warning("%s cannot be loaded to check that stored runs are of it: %s", self.spec, error)
            return True
        return record["suite_digest"] == self.digests[key]


def require_not_other_suites(runs: list[tuple[Path, str, str]]) -> None:
    """Raise if a run would overwrite that of another suite with the same name; a suite that has changed is the same.

    Args:
        runs: (folder, suite as given, format) of each run.
    """
    from eval.harness.store import read_record

    refused = []
    for folder, spec, format in runs:
        try:
            record = read_record(folder) if (folder / "run.json").is_file() else {}
        except UserError:  # damaged: evaluated again
            record = {}
        source = record.get("suite_source")  # older runs lack it
        # A copy, or a file that was moved, has the same digest.
        if source in (None, suite_source(spec)) or (record["format"] == format and SuiteNow(spec).is_in(record)):
            continue
        refused.append(
            UserError(
                f"{folder} holds an eval run of another suite with that name",
                got=source,
                expected=f"another folder for the run of {spec}",
                fix="rename the suite's file, evaluate it with another --output_dir, or remove the existing run",
            )
        )
    raise_all(refused)
