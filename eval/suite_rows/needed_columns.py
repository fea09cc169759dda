"""The columns that a task's settings read: names of columns, and variables of its templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

COLUMN = re.compile(r"[A-Za-z_]\w*")  # a setting of this form is a column; templates hold {{ }}, other texts signs
PROMPT_KEYS = ("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix")


@dataclass(frozen=True)
class Needs:
    """What a task reads of a row.

    Attributes:
        columns: columns without which a template fails, or which lm-eval would take literally.
        filled: those of the columns whose value is printed without a condition: null would be printed as None.
        indexed: columns that must be lists or objects, because a template takes a part of them.
        target: the column that doc_to_target names, if it names one.
        is_choice: whether the task is multiple choice.
        fixed_choices: the choices, if they are the same for all rows.
    """

    columns: frozenset[str] = frozenset()
    filled: frozenset[str] = frozenset()
    indexed: frozenset[str] = frozenset()
    target: str | None = None
    is_choice: bool = False
    fixed_choices: tuple[str, ...] = ()


def needs_of(config: Mapping[str, Any]) -> Needs:
    """Read a task's settings.

    Raises:
        jinja2.TemplateSyntaxError: a template is broken.
    """
    texts = list(_settings(config))
    named = {text for text in texts if COLUMN.fullmatch(text)}
    templates = [_variables(text) for text in texts if "{" in text]
    target, choices = config.get("doc_to_target"), config.get("doc_to_choice")
    return Needs(
        columns=frozenset(named.union(*(found["columns"] for found in templates))),
        filled=frozenset(named.union(*(found["filled"] for found in templates))),
        indexed=frozenset(set().union(*(found["indexed"] for found in templates))),
        target=target if isinstance(target, str) and COLUMN.fullmatch(target) else None,
        is_choice=config.get("output_type") == "multiple_choice",
        fixed_choices=tuple(map(str, choices)) if isinstance(choices, list) else (),
    )


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    values = [config.get(key) for key in PROMPT_KEYS]
    if isinstance(examples := config.get("fewshot_config"), dict) and "samples" not in examples:
        values += [examples.get(key) for key in PROMPT_KEYS]
    yield from (value for value in values if isinstance(value, str))
    if "{" in (description := config.get("description") or ""):
        yield description


def _variables(template: str) -> dict[str, set[str]]:
    """A template's variables: those that must be there, must not be null, and must have parts."""
    from jinja2 import meta, nodes
    from lm_eval.utils import env

    tree = env.parse(template)
    free = meta.find_undeclared_variables(tree)
    defaults = [node.node for node in tree.find_all(nodes.Filter) if node.name in ("default", "d")]
    tests = [node.node for node in tree.find_all(nodes.Test)]
    conditions = [node.test for node in tree.find_all((nodes.If, nodes.CondExpr))]
    conditions += list(tree.find_all((nodes.Or, nodes.And)))
    defined = [node.node for node in tree.find_all(nodes.Test) if node.name in ("defined", "undefined")]
    called = {id(node.node) for node in tree.find_all(nodes.Call)}
    parts = [node for node in tree.find_all((nodes.Getitem, nodes.Getattr)) if id(node) not in called]
    indexed = {part.node.name for part in parts if isinstance(part.node, nodes.Name)}
    sliced = {
        part.node.name
        for part in parts
        if isinstance(part, nodes.Getitem) and isinstance(part.arg, nodes.Slice) and isinstance(part.node, nodes.Name)
    }
    must = free - _names([*defaults, *defined])
    return {
        "columns": must,
        "filled": must - _names([*tests, *conditions]),
        "indexed": (indexed - sliced) & must,
    }


def _names(trees: Iterable[Any]) -> set[str]:
    from jinja2 import nodes

    found = set()
    for tree in trees:
        found |= {tree.name} if isinstance(tree, nodes.Name) else {node.name for node in tree.find_all(nodes.Name)}
    return found
