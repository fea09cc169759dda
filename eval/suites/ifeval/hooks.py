"""IFEval's prompts that can be checked without downloads, and lm-eval's checkers for them."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from inspect import signature
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

from alignment.errors import UserError, did_you_mean, raise_all
from eval.suite_rows.row_checks import first_problems
from eval.suites.options import rows_of

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

HUB = "google/IFEval"
COLUMNS = ("key", "prompt", "instruction_id_list", "kwargs")
NEEDS_DOWNLOADS = {
    "language:response_language": "langdetect",
    "change_case:english_capital": "langdetect",
    "change_case:english_lowercase": "langdetect",
    "change_case:capital_word_frequency": "NLTK's punkt_tab",
    "length_constraints:number_sentences": "NLTK's punkt_tab",
}


def load_prompts(suite_args: dict | None = None, **_: object) -> dict[str, Dataset]:
    """The prompts all of whose instructions run offline; the others are named and counted in the log."""
    rows = rows_of("ifeval", HUB, "train", suite_args, COLUMNS)
    lists = zip(rows["instruction_id_list"], rows["kwargs"], strict=True)
    wrong = [number for number, (names, settings) in enumerate(lists, 1) if not _is_paired(names, settings)]
    if wrong:
        raise UserError(
            "The suite ifeval cannot read rows without settings for each instruction.",
            got=f"{len(wrong)} of {len(rows)} rows, the first is row {wrong[0]}: {rows[wrong[0] - 1]}",
            expected="instruction_id_list and kwargs as lists of the same length",
        )
    raise_all(first_problems(list(_problems(rows))))
    kept = [number for number, names in enumerate(rows["instruction_id_list"]) if not NEEDS_DOWNLOADS.keys() & {*names}]
    needed = Counter(name for names in rows["instruction_id_list"] for name in {*names} if name in NEEDS_DOWNLOADS)
    if needed:
        reasons = ", ".join(f"{name} ({count}, {NEEDS_DOWNLOADS[name]})" for name, count in needed.most_common())
        logger.info("ifeval: %d of %d prompts left out: %s", len(rows) - len(kept), len(rows), reasons)
    return {"train": rows.select(kept)}


def _is_paired(names: object, settings: object) -> bool:
    return isinstance(names, list) and isinstance(settings, list) and len(names) == len(settings) > 0


def _problems(rows: Dataset) -> Iterator[UserError]:
    """Yield the problem of each row whose instructions lack a setting: lm-eval draws one that is missing or 0."""
    settings_of = _settings_of()
    for number, (names, settings) in enumerate(zip(rows["instruction_id_list"], rows["kwargs"], strict=True), 1):
        for name, given in zip(names, settings, strict=True):
            if name not in settings_of:
                yield UserError(
                    f"ifeval, row {number}: there is no instruction {name!r}.",
                    got=name,
                    expected=f"one of lm-eval's: {', '.join(sorted(settings_of))}",
                    fix=did_you_mean(name, settings_of, "correct instruction_id_list"),
                )
                continue
            there = {key for key, value in given.items() if value} if isinstance(given, dict) else set()
            if there != settings_of[name]:
                yield UserError(
                    f"ifeval, row {number}: the settings of {name} are not those that it needs.",
                    got=", ".join(sorted(there)) or "none",
                    expected=", ".join(sorted(settings_of[name])) or "none",
                    fix="correct kwargs, which has an object for each instruction",
                )


def _settings_of() -> dict[str, set[str]]:
    """Instruction -> the settings by which lm-eval checks it."""
    checkers = _checkers().instructions_registry.INSTRUCTION_DICT
    return {name: set(signature(checker.build_description).parameters) - {"self"} for name, checker in checkers.items()}


def check(doc: dict, results: list[str]) -> dict[str, object]:
    """lm-eval's scores of a reply, strict and loose: whether all instructions are followed, and which."""
    return _checkers().process_results(doc, results)


def mean_of_all(items: list[list[bool]]) -> float:
    """The share of instructions followed over all prompts."""
    flat = [followed for prompt in items for followed in prompt]
    return sum(flat) / len(flat)


@cache
def _checkers() -> ModuleType:
    """lm-eval's IFEval hooks."""
    with _without_downloads():
        from lm_eval.tasks.ifeval import utils
    return utils


@contextmanager
def _without_downloads() -> Iterator[None]:
    """As they are imported, lm-eval's checkers want NLTK's punkt_tab, if need be from the network, and two packages.

    The instructions kept need neither the data nor langdetect, and of immutabledict a plain one does. Afterwards the
    stand-ins are forgotten with all that was imported, so that lm-eval's own ifeval still asks for what it needs.
    """
    import nltk

    missing = {"langdetect": SimpleNamespace(), "immutabledict": SimpleNamespace(immutabledict=dict)}
    with mock.patch.dict(sys.modules), mock.patch.object(nltk.data, "find"):
        for name, stand_in in missing.items():
            if find_spec(name) is None:
                sys.modules[name] = stand_in
        yield
