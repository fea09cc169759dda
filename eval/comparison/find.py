"""Eval runs found by path, and the pairs of runs of two sides that measure the same thing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.errors import UserError, raise_all
from eval.harness.store import ForeignRecord, Run, load_run, read_record, variant_words

logger = logging.getLogger(__name__)
ELSEWHERE = Path("runs/evals")  # eval runs of checkpoints outside a run directory, and of endpoints
ENDPOINT = ("http://", "https://")  # what the name of an endpoint's model, URL#MODEL, begins with


def measurement(record: dict) -> tuple[str, str, str]:
    """(suite, format, options that set the run apart, in words); only runs with equal measurements are compared."""
    return record["suite"], record["format"], " ".join(variant_words(record.get("variant") or {}))


def without_template(record: dict) -> tuple[str, str, str]:
    """A record's measurement, whether its chat template was the checkpoint's own or given by `--chat_template`.

    The digest of the template, which a comparison requires to be equal, says what was asked.
    """
    variant = {key: value for key, value in (record.get("variant") or {}).items() if key != "chat_template"}
    return measurement(record | {"variant": variant})


@dataclass(frozen=True)
class Asked:
    """What a comparison was asked for; by default everything.

    Attributes:
        suites, formats: names; none means all.
        limit: items per task of runs with `--limit`.
        template_digest: digest of the chat template given by `--chat_template`; plain runs have none.
    """

    suites: Sequence[str] = ()
    formats: Sequence[str] = ()
    limit: int | None = None
    template_digest: str | None = None

    def covers(self, record: dict) -> bool:
        """Whether a run.json is of a run that was asked for."""
        return (
            (not self.suites or record["suite"] in self.suites)
            and (not self.formats or record["format"] in self.formats)
            and (self.limit is None or (record.get("variant") or {}).get("limit") == self.limit)
            and (self.template_digest is None or asked_in(record, self.template_digest))
        )

    def words(self) -> str:
        """The restrictions on suite, format and limit in words, to follow `No eval runs found`."""
        parts = [f"of suite {' or '.join(map(repr, self.suites))}"] if self.suites else []
        parts += [f"in {' or '.join(self.formats)} format"] if self.formats else []
        parts += [f"with --limit {self.limit}"] if self.limit is not None else []
        return "".join(f" {part}" for part in parts)


def asked_in(record: dict, digest: str) -> bool:
    """Whether a run was in the plain format, or in the chat template of a digest."""
    return record["format"] != "chat" or record.get("template_digest") == digest


def find_runs(
    path: str | Path, suites: Sequence[str] = (), outdated: Sequence[Path] = (), *, asked: Asked | None = None
) -> dict[tuple[str, ...], Path]:
    """Find the eval runs that belong to a path.

    Args:
        path: an eval run's folder; a checkpoint (`RUN/STAGE/checkpoint`) or stage folder (`RUN/STAGE`) of a run
            directory, for all runs of that stage in `RUN/evals`; another checkpoint, by the path or hub id given to
            `align eval`, or a model behind an endpoint (URL#MODEL), for its runs in `runs/evals`; or a run directory or
            folder of eval runs, for all its runs.
        suites: names of suites; only their runs are returned.
        outdated: folders of runs that do not count.
        asked: further restrictions; replaces `suites`.

    Returns:
        (suite, format, the variant in words) -> folder; if the runs belong to several stages, the key ends with the
        stage, so that equal stages are compared.

    Raises:
        UserError: there are no such runs.
    """
    asked = asked or Asked(suites)
    found = {folder: record for folder, record in records_of(path).items() if folder not in outdated}
    records = {folder: record for folder, record in found.items() if asked.covers(record)}
    if not records:
        from alignment.models.examined.folder_contents import misspelt

        if str(path).startswith(ENDPOINT):
            raise without_runs(str(path), asked.words())
        there = Path(path).expanduser().exists()
        raise UserError(
            f"No eval runs found{asked.words()}.",
            got=path if there else f"{path} (no such folder)",
            expected="an eval run's folder (with run.json), a folder of eval runs, RUN/STAGE/checkpoint with runs in "
            f"RUN/evals/STAGE-*, or a checkpoint with runs in {ELSEWHERE}",
            fix=(None if there else misspelt(path))
            or "run `align eval` on the checkpoint first, or give a checkpoint with --suite",
        )
    several = len({record["stage"] for record in records.values()}) > 1
    return {
        (*measurement(record), *([record["stage"]] if several else [])): folder for folder, record in records.items()
    }


def without_runs(endpoint: str, asked: str = "") -> UserError:
    """The error for an endpoint (URL#MODEL) without eval runs, of which a comparison cannot evaluate a model."""
    url, _, model = endpoint.partition("#")
    return UserError(
        f"No eval runs found{asked}.",
        got=endpoint,
        expected=f"runs in {ELSEWHERE}; of runs elsewhere give the folder",
        fix=f"align eval --endpoint {url} --model {model or 'NAME'} --suite SUITE first",
    )


def require_sides(sides: Sequence[str | Path]) -> None:
    """Raise for sides of a comparison that are paths to nothing, of which no eval runs are stored either."""
    from alignment.models.checkpoints import is_path
    from alignment.models.examined.folder_contents import misspelt

    raise_all(
        [
            without_runs(side)
            if side.startswith(ENDPOINT)
            else UserError(
                f"No such folder: {side}.",
                got="a path that does not exist, and no eval runs of it",
                expected="a checkpoint, a run directory, or a folder of eval runs",
                fix=misspelt(side) or "check the path",
            )
            for side in dict.fromkeys(map(str, sides))
            if is_path(side) and not Path(side).expanduser().exists() and not records_of(side)
        ]
    )


def match(
    first: str | Path,
    others: Sequence[str | Path],
    suites: Sequence[str] = (),
    outdated: Sequence[Path] = (),
    *,
    asked: Asked | None = None,
) -> tuple[list[tuple[Run, Run]], list[str]]:
    """Pair the first side's runs with the runs of each other side that measure the same thing.

    The arguments are those of `find_runs`.

    Returns:
        The pairs (first, other); and what is not compared, in words: runs that only one side has, and figures that are
        not means over items.

    Raises:
        UserError: a side has no runs, or two sides have no measurement in common.
    """
    loaded: dict[Path, Run] = {}
    pairs, skipped = [], []
    before = find_runs(first, suites, outdated, asked=asked)
    for other in others:
        after = find_runs(other, suites, outdated, asked=asked)
        common = _partners(before, after)
        if not common:
            shown = [", ".join(map(_words, runs)) for runs in (before, after)]
            raise UserError(
                "The two sides have no suite and format in common.",
                got=f"{shown[0]} against {shown[1]}",
                fix="run `align eval` on both with the same --suite and --format",
            )
        for folder in [folder for pair in common for folder in (before[pair[0]], after[pair[1]])]:
            loaded[folder] = loaded.get(folder) or load_run(folder)
        pairs += [(loaded[before[key]], loaded[after[partner]]) for key, partner in common]
        taken = [set(keys) for keys in zip(*common, strict=True)]
        for side, runs, missing, done in ((first, before, other, taken[0]), (other, after, first, taken[1])):
            skipped += [f"{_words(key)}: only {side} has it, {missing} does not" for key in runs if key not in done]
    figures = [(run.record["suite"], figure) for _, run in pairs for figure in run.record["tasks"]]
    unpaired = [
        f"{name}: {f['task']}/{f['metric']} is not a mean over items" for name, f in figures if not f["is_mean"]
    ]
    return pairs, list(dict.fromkeys([*skipped, *unpaired]))


Key = tuple[str, ...]


def _partners(before: dict[Key, Path], after: dict[Key, Path]) -> list[tuple[Key, Key]]:
    """The keys of runs that measure the same thing; of several in chat format, those with the same template."""
    records = {folder: read_record(folder) for runs in (before, after) for folder in runs.values()}

    def alike(key: Key, runs: dict[Key, Path]) -> Key:
        return (*without_template(records[runs[key]]), *key[3:])

    pairs = []
    for key, folder in before.items():
        same = [other for other in after if alike(other, after) == alike(key, before)]
        digest = records[folder].get("template_digest")
        in_template = [other for other in same if records[after[other]].get("template_digest") == digest]
        pairs += [(key, other) for other in (in_template or [other for other in same if other == key])[:1]]
    return pairs


def _words(key: tuple[str, ...]) -> str:
    """A key of `find_runs`, for people."""
    return " ".join(part for part in key if part)


def records_of(given: str | Path) -> dict[Path, dict]:
    """Folder -> run.json for each eval run that belongs to a path, as `find_runs` describes."""
    path = Path(given).resolve()
    if (path / "run.json").exists():
        return _records([path])
    own = _records(sorted(file.parent for pattern in ("evals/*/", "*/") for file in path.glob(f"{pattern}run.json")))
    if own:
        return own
    stage = path.parent if path.name == "checkpoint" else path
    all_stages = _records(sorted(file.parent for file in stage.parent.glob("evals/*/run.json")))
    of_stage = {folder: record for folder, record in all_stages.items() if record["stage"] == stage.name}
    if of_stage:
        return of_stage
    elsewhere = _records(sorted(file.parent.resolve() for file in ELSEWHERE.glob("*/run.json")))
    names = (str(given), str(path))
    return {
        folder: record
        for folder, record in elsewhere.items()
        if record.get("checkpoint") in names or str(Path(record.get("checkpoint", "")).resolve()) in names
    }


def _records(folders: list[Path]) -> dict[Path, dict]:
    """Folder -> run.json; those of other programs are passed over with a warning, unless there are no others.

    Raises:
        UserError: a run.json is damaged.
    """
    found: dict[Path, dict] = {}
    foreign: list[UserError] = []
    for folder in folders:
        try:
            found[folder] = read_record(folder)
        except ForeignRecord as error:
            foreign.append(error)
    if not found:
        raise_all(foreign)
    for other in foreign:
        logger.warning("passed over: %s", other.problem)
    return found
