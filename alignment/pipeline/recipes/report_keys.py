"""The keys of pipeline.yaml's `evals:` that say what the report shows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import UserError, raise_all, suggestion
from alignment.pipeline.recipes.typecheck import describe_value, fits


class Key(NamedTuple):
    """The type of a key's value, as an annotation and in words."""

    hint: Any
    expected: str


KEYS = {
    "base": Key(str, "the name of a stage"),
    "headline": Key(dict[str, str], "a mapping of suites to tasks: {SUITE: TASK}"),
    "samples": Key(dict[str, Any], "{suite: SUITE, n: NUMBER}"),
    "pareto": Key(list[str], "two different suites: [SUITE, SUITE]"),
}
SAMPLE_KEYS = {"suite": Key(str, "a suite"), "n": Key(int, "a whole number from 1")}


@dataclass(frozen=True)
class ReportKeys:
    """What the report of a run shows of its evaluations.

    Attributes:
        base: the stage that every other stage is compared with; by default the evaluated model that the
            first stage starts from; if that starts from random weights, the first that was evaluated.
        headline: suite -> the task that represents it; by default the suite's aggregate.
        samples: {suite, n}: the suite whose first prompts are shown with every stage's answers, and how many; by
            default the first suite whose answers are text.
        pareto: the two suites whose scores are plotted against each other, first that of the x axis; empty for none.
    """

    base: str | None = None
    headline: dict[str, str] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    pareto: list[str] = field(default_factory=list)

    def given(self) -> dict[str, Any]:
        """The keys that were given."""
        return {key: value for key, value in asdict(self).items() if value}


def report_keys(evals: dict[str, Any], stages: Sequence[str], suites: Sequence[str], source: Path) -> ReportKeys:
    """Take the report's keys out of `evals`.

    Args:
        evals: the keys under `evals:`; those of the report are removed.
        stages: the stages that `base` can name.
        suites: the suites that `headline`, `samples` and `pareto` can name, as they are written under `evals:`.
        source: the pipeline.yaml, for messages.
    """
    taken = {key: evals.pop(key, None) for key in KEYS}
    given = {key: value for key, value in taken.items() if value is not None}
    raise_all([_unfit(source, key, value, KEYS[key]) for key, value in given.items() if not _takes(key, value)])
    keys = ReportKeys(**given)
    _check_samples(keys.samples, source)
    named = [("base", "stage", keys.base, stages), ("samples.suite", "suite", keys.samples.get("suite"), suites)]
    named += [("headline", "suite", suite, suites) for suite in keys.headline]
    named += [("pareto", "suite", suite, suites) for suite in keys.pareto]
    raise_all(
        [
            _absent(source, key, kind, name, known)
            for key, kind, name, known in named
            if name is not None and name not in known
        ]
    )
    return keys


def _takes(key: str, value: Any) -> bool:
    """Whether a value is of the type of a key."""
    return fits(value, KEYS[key].hint) and (key != "pareto" or len(value) == len(set(value)) == 2)


def _check_samples(samples: dict[str, Any], source: Path) -> None:
    errors = []
    for name, value in samples.items():
        key = SAMPLE_KEYS.get(name)
        if key is None:
            errors.append(UserError(f"{source}: unknown key 'evals.samples.{name}'", fix=suggestion(name, SAMPLE_KEYS)))
        elif not fits(value, key.hint) or (key.hint is int and value < 1):
            errors.append(_unfit(source, f"samples.{name}", value, key))
    raise_all(errors)


def _unfit(source: Path, name: str, value: object, key: Key) -> UserError:
    return UserError(f"{source}: evals.{name} cannot take this value", got=describe_value(value), expected=key.expected)


def _absent(source: Path, key: str, kind: str, name: str, known: Sequence[str]) -> UserError:
    """The error for a stage or suite that is not evaluated."""
    problem = f"{source}: evals.{key} names a {kind} that evals.{kind}s does not list"
    return UserError(
        problem,
        got=name,
        expected=f"one of {', '.join(known) or 'none'}",
        fix=suggestion(name, known) if known else None,
    )
