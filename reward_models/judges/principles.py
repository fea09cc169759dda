"""Principles by which a judge prefers and rates replies, and a critic criticises and revises them: a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alignment.durable.read import read_text
from alignment.errors import UserError, gathered, raise_all, suggestion
from alignment.yaml_text import parse_yaml
from reward_models.returned import shown

JUDGE = ("prefer",)  # the texts that a judge of pairs needs
RATER = ("rate",)
CRITIC = ("critique", "revise")
EXAMPLE = "- name: honest\n  prefer: Which reply is more honest?"


@dataclass(frozen=True)
class Principle:
    """A principle in the words of its author; "" for a text that the file does not give.

    Attributes:
        name: names the principle in rows, cards and reports.
        prefer: asks a judge which of two replies is better.
        critique: asks a critic what is wrong with a reply.
        revise: asks a critic for a better reply.
        rate: asks a judge how good a reply is.
    """

    name: str
    prefer: str = ""
    critique: str = ""
    revise: str = ""
    rate: str = ""


KEYS = tuple(field.name for field in fields(Principle))


def read_principles(file: str | Path, needs: Sequence[str] = JUDGE) -> list[Principle]:
    """The principles in a YAML file, a list of mappings {name, prefer, critique, revise, rate}.

    Args:
        needs: the texts that each principle has to have: JUDGE, RATER, CRITIC, or a sum of these.

    Raises:
        UserError: the file is missing, is not UTF-8 or YAML, or for all mistakes of its principles together.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"no file {file}", expected=f"a YAML file with a list of principles, such as\n{EXAMPLE}")
    return principles_of(parse_yaml(read_text(path), str(file)), str(file), needs)


def principles_of(value: Any, source: str, needs: Sequence[str] = JUDGE) -> list[Principle]:
    """The principles in a value of YAML.

    Args:
        source: names the value in errors: a path or a recipe's key.
        needs: as for `read_principles`.

    Raises:
        UserError: for all mistakes together.
    """
    if not isinstance(value, list) or not value:
        got = "an empty list" if value == [] else f"{type(value).__name__}: {shown(value)}"
        raise UserError(f"{source} has no list of principles", got=got, expected=f"a list, such as\n{EXAMPLE}")
    errors: list[UserError] = []
    found: list[Principle] = []
    for number, entry in enumerate(value, 1):
        with gathered(errors):
            found.append(_principle(entry, number, source, needs))
    places: dict[str, int] = {}
    for number, entry in enumerate(value, 1):
        name = _text(entry.get("name")) if isinstance(entry, dict) else ""
        if name in places:
            got = f"principles {places[name]} and {number}"
            fix = "give each principle its own name"
            errors.append(UserError(f"{source}: two principles are named {name!r}", got=got, fix=fix))
        elif name:
            places[name] = number
    raise_all(errors)
    return found


def _principle(entry: Any, number: int, source: str, needs: Sequence[str]) -> Principle:
    """One principle; raises for all mistakes of its entry."""
    if not isinstance(entry, dict):
        got = f"{type(entry).__name__}: {shown(entry)}"
        raise UserError(f"{source}: principle {number} is no mapping", got=got, expected=f"such as\n{EXAMPLE}")
    name = _text(entry.get("name"))
    label = f"principle {name!r}" if name else f"principle {number}"
    errors = [
        UserError(f"{source}: {label} has an unknown key", got=key, fix=suggestion(key, KEYS))
        for key in entry
        if key not in KEYS
    ]
    for key in KEYS:
        if key in entry and not _text(entry[key]):
            got = "an empty text" if entry[key] in ("", None) or isinstance(entry[key], str) else shown(entry[key])
            fix = f"write a text, or remove the line {key}:" if key not in ("name", *needs) else "write a text"
            errors.append(UserError(f"{source}: {label}: {key} is no text", got=got, fix=fix))
        elif key in ("name", *needs) and key not in entry:
            errors.append(_missing(source, label, key, needs))
    raise_all(errors)
    return Principle(**{key: _text(text) for key, text in entry.items()})


def _missing(source: str, label: str, key: str, needs: Sequence[str]) -> UserError:
    if key == "name":
        return UserError(f"{source}: {label} has no name", fix="add a line such as `name: honest`")
    reader = "a critic" if key in CRITIC else "a judge"
    asks = {
        "prefer": "prefer: Which reply is more honest?",
        "rate": "rate: How honest is the reply?",
        "critique": "critique: Name what is not honest in the reply.",
        "revise": "revise: Write the reply again, honestly.",
    }
    return UserError(f"{source}: {label} has no {key}, which {reader} needs", fix=f"add a line such as `{asks[key]}`")


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
