"""Refusals of settings in a task's YAML that lm-eval or transformers would fail on in the middle of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError, raise_all

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval's names of one setting


def require_usable_settings(task: ConfigurableTask) -> None:
    """Raise for settings of a loaded task that no run can use, all together."""
    from lm_eval.api.task import ConfigurableTask

    config = task.config
    wrong = [
        (name, getattr(config, name), "a whole number, 0 or more" if least == 0 else "a whole number, 1 or more")
        for name, least in (("num_fewshot", 0), ("repeats", 1))
        if not _is_count(getattr(config, name), least)
    ]
    if task.OUTPUT_TYPE == "generate_until":
        wrong += _wrong_generation(config.generation_kwargs or {})
    own_choices = type(task).doc_to_choice is not ConfigurableTask.doc_to_choice  # of a task that is a class
    if task.OUTPUT_TYPE == "multiple_choice" and config.doc_to_choice is None and not own_choices:
        wrong.append(("doc_to_choice", None, "the choices of each row: a column, a list or a template"))
    if config.process_results is None and not config.metric_list and config.metric_list is not None:
        wrong.append(("metric_list", [], "a metric, such as [{metric: exact_match}]"))
    wrong += [
        (
            f"the aggregation of {metric}",
            _named_aggregation(config.metric_list, metric),
            "the name of one, such as mean",
        )
        for metric, function in task.aggregation().items()
        if not callable(function)
    ]
    wrong += [
        (f"filter {name}", f"{type(error).__name__}: {error}", "settings of the filter")
        for name, error in _broken(task)
    ]
    raise_all(
        [
            UserError(f"Task {config.task!r} cannot use {name}.", got=got, expected=expected)
            for name, got, expected in wrong
        ]
    )


def _broken(task: ConfigurableTask) -> Iterator[tuple[str, Exception]]:
    """Yield the name of each filter that cannot be made, as by a broken pattern: lm-eval makes it after the run."""
    for ensemble in task._filters:
        for make in ensemble.filters:
            try:
                make()
            except Exception as error:  # filters may be of the task's author
                yield ensemble.name, error


def _wrong_generation(settings: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """(setting, value, what is accepted) of each setting that cannot be used to generate one reply."""
    sampled, temperature = settings.get("do_sample"), _number(settings.get("temperature", 0.0))
    stops = settings.get("until")
    texts = stops if isinstance(stops, list) else [stops]
    checks = {name: (_is_count(settings.get(name), 1), "a whole number, 1 or more") for name in LENGTHS}
    checks |= {
        "until": (all(stop is None or isinstance(stop, str) for stop in texts), "a text, or a list of texts"),
        "do_sample": (sampled in (None, True, False), "true or false"),
        "temperature": (
            temperature is not None and (temperature > 0 or (temperature == 0 and not sampled)),
            "a number above 0 to sample, or without do_sample: 0",
        ),
        "num_return_sequences": (settings.get("num_return_sequences") in (None, 1), "1; for several replies, repeats"),
        "num_beams": (_is_count(settings.get("num_beams"), 1), "a whole number, 1 or more"),
    }
    return [
        (f"generation_kwargs: {name}", settings[name], expected)
        for name, (fine, expected) in checks.items()
        if name in settings and not fine
    ]


def _named_aggregation(metrics: list[dict] | None, name: str) -> Any:
    return next((entry.get("aggregation") for entry in metrics or [] if entry.get("metric") == name), None)


def _is_count(value: Any, least: int) -> bool:
    """Whether a setting is left out or a whole number; lm-eval reads digits in text too."""
    if value is None:
        return True
    number = _number(value)
    return not isinstance(value, bool) and number is not None and number == int(number) and number >= least


def _number(value: Any) -> float | None:
    """A finite number, also as text; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
