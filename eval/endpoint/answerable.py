"""Which suites an endpoint can answer: those of generated replies, with settings that a request has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lm_eval.models.utils import normalize_gen_kwargs

from alignment.errors import UserError, raise_all

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from eval.harness.suite import Suite

# The project's suites of generated replies; tests/eval/endpoint/test_answerable.py reads the others' kinds.
GENERATIVE = (
    *("abstention", "bbh", "gsm8k", "ifeval", "tinyworld", "tinyworld_gold", "tinyworld_harmless"),
    *("tinyworld_helpful", "tinyworld_principles", "xstest"),
)
GENERATED = "generate_until"
NOT_SENT = {"until", "max_gen_toks", "do_sample"}  # read here, or under another name
SENT = {"temperature", "top_p", "top_k", "min_p"}  # OpenAI's, and what local servers add to them


def require_generative(specs: list[str]) -> None:
    """Raise for the project's own suites that need log-probabilities, before their data is loaded."""
    from eval.harness.suite import list_suites, parse_suite

    names = {spec: parse_suite(spec)[0] for spec in specs}
    others = set(list_suites()) - set(GENERATIVE)
    raise_all([_needs_log_probabilities(spec, "scores of given texts") for spec in specs if names[spec] in others])


def require_answerable(suites: list[tuple[str, str, Suite]]) -> None:
    """Raise for all suites that cannot be asked through an endpoint, before anything is asked.

    Args:
        suites: (suite as given, format, loaded suite).
    """
    problems: dict[str, UserError] = {}
    for spec, format, suite in suites:
        for error in [*_without_replies(spec, suite), *_other_settings(spec, suite), *_prefixes(spec, format, suite)]:
            problems.setdefault(str(error), error)
    raise_all(list(problems.values()))


def _without_replies(spec: str, suite: Suite) -> Iterator[UserError]:
    """The error for tasks that are scored by log-probabilities of given texts, which endpoints do not give."""
    others = [name for name, task in suite.tasks.items() if task.OUTPUT_TYPE != GENERATED]
    if not others:
        return
    kinds = sorted({str(suite.tasks[name].OUTPUT_TYPE) for name in others})
    yield _needs_log_probabilities(spec, f"{_listed(others)} ({', '.join(kinds)})")


def _needs_log_probabilities(spec: str, got: str) -> UserError:
    return UserError(
        f"Suite {spec!r} cannot be evaluated through an endpoint: it needs log-probabilities of given texts.",
        got=got,
        expected=f"suites of generated replies: {', '.join(GENERATIVE)}, files of questions with answers, "
        "or lm-eval tasks of output_type generate_until",
        fix="evaluate its checkpoint: align eval CHECKPOINT",
    )


def _other_settings(spec: str, suite: Suite) -> Iterator[UserError]:
    """The errors for settings of generation that a request cannot carry."""
    found: dict[str, list[str]] = {}
    for name, task in suite.tasks.items():
        if task.OUTPUT_TYPE != GENERATED:
            continue
        settings = normalize_gen_kwargs(task.config.generation_kwargs or {})
        for key in settings.keys() - NOT_SENT - SENT:
            found.setdefault(f"{key}={settings[key]}", []).append(name)
    for setting, names in sorted(found.items()):
        yield UserError(
            f"Suite {spec!r} has a setting of generation that an endpoint does not take.",
            got=f"{setting} of {_listed(names)}",
            expected=f"only {', '.join(sorted(NOT_SENT | SENT))}",
            fix="remove it from generation_kwargs, or evaluate the checkpoint: align eval CHECKPOINT",
        )


def _prefixes(spec: str, format: str, suite: Suite) -> Iterator[UserError]:
    """The error for replies that begin with a given text: chat completions begin each reply anew."""
    begun = [name for name, task in suite.tasks.items() if format == "chat" and task.config.gen_prefix]
    if begun:
        yield UserError(
            f"Suite {spec!r} cannot be evaluated through an endpoint in the chat format: its replies begin with a "
            "given text.",
            got=f"gen_prefix of {_listed(begun)}",
            fix="--format plain",
        )


def is_sampled(task: Task) -> bool:
    """Whether a task's replies are sampled."""
    return bool(normalize_gen_kwargs(task.config.generation_kwargs or {})["do_sample"])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
