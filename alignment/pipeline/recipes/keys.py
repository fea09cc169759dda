"""The keys that a stage's recipe may have, with the types of their values."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, get_type_hints

from alignment.errors import UserError, suggestion
from alignment.pipeline.recipes.misspelt import UnknownKey
from alignment.pipeline.recipes.typecheck import describe, describe_value, fits
from alignment.yaml_text import write_yaml

OURS = "alignment"
OWNERS = {OURS: "this project", "trl": "TRL", "transformers": "transformers", "peft": "PEFT"}
PEFT_NAMES = ("lora_", "use_rslora", "use_dora")  # keys of TRL's ModelConfig that are fields of PEFT's LoraConfig


@dataclass(frozen=True)
class Key:
    """One recipe key: a field of a dataclass.

    Attributes:
        hint: the annotation of the field.
        required: whether the recipe has to set the key.
        example: the default value as an example, if it is a text or a number.
        default: the default value as YAML; empty for a required key.
        owner: the library that defines the key: an entry of OWNERS.
        set_by: the library that sets another default than the owner; empty if none does.
        help: what the key does.
    """

    name: str
    hint: Any
    required: bool = False
    example: str | int | float | None = None
    default: str = ""
    owner: str = ""
    set_by: str = ""
    help: str = ""


@dataclass(frozen=True)
class Keys:
    """The recipe keys of a stage.

    Attributes:
        fields: the keys; a name occurs more than once if several dataclasses have it.
        renamed: key of an earlier version -> what replaces it.
        parents: key that names a parent checkpoint -> the kind needed.
    """

    fields: tuple[Key, ...]
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parents: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """The names of all keys."""
        return {key.name for key in self.fields}

    def mistakes(self, recipe: Mapping[str, Any], source: str) -> list[UserError]:
        """Return an error for each unknown key, wrong type and missing key of a recipe; a name is reported once.

        Args:
            source: the recipe's file, for messages.
        """
        unknown = [self._unknown(name, value, source) for name, value in recipe.items() if name not in self.names]
        unfit = {name: self._unfit(name, value) for name, value in recipe.items()}
        wrong = [_wrong_type(source, key, recipe[name]) for name, key in unfit.items() if key]
        missing = {key.name: _missing(source, key) for key in self.fields if key.required and key.name not in recipe}
        return [*unknown, *wrong, *missing.values()]

    def _unfit(self, name: str, value: Any) -> Key | None:
        """Return the key of this name whose type the value does not have, if any."""
        return next((key for key in self.fields if key.name == name and not fits(value, key.hint)), None)

    def _unknown(self, name: str, value: Any, source: str) -> UserError:
        new = self.renamed.get(name)
        fix = f"what it did: {new}" if new else suggestion(name, sorted(self.names))
        problem = f"{source}: unknown key {name!r}"
        return UnknownKey(problem, name, sorted(self.names), got=f"{name}: {value}", fix=fix)


def keys_of_module(module: ModuleType) -> Keys:
    """Return the recipe keys of a stage's module."""
    return keys_of(module.CONFIGS, module.PARENTS)


def keys_of(classes: tuple[type, ...], parents: Mapping[str, str] | None = None) -> Keys:
    """Return the fields of dataclasses as recipe keys."""
    renamed = {key: new for cls in classes for key, new in getattr(cls, "RENAMED", {}).items()}
    return Keys(tuple(key for cls in classes for key in _fields(cls)), renamed, parents or {})


def _fields(cls: type) -> Iterator[Key]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            example = field.default if isinstance(field.default, str | int | float) else None
            owner, set_by = _owner(cls, field.name)
            text = " ".join(str(field.metadata.get("help", "")).replace("%%", "%").split())
            yield Key(field.name, hints[field.name], required, example, _default(field), owner, set_by, text)


def _default(field: "dataclasses.Field[Any]") -> str:
    """The default of a field as YAML; empty if there is none."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return ""
    return write_yaml(value.value if isinstance(value, Enum) else value)


def _owner(cls: Any, name: str) -> tuple[str, str]:
    """The library that defines a field, and the library that sets another default than the owner, if any.

    TRL's ModelConfig repeats fields of PEFT's LoraConfig.
    """
    classes = [one for one in cls.__mro__ if name in inspect.get_annotations(one)]
    libraries = [library if (library := one.__module__.partition(".")[0]) in OWNERS else OURS for one in classes]
    owner = libraries[-1]
    own, first = ({field.name: field for field in dataclasses.fields(one)}[name] for one in (cls, classes[-1]))
    set_by = libraries[0] if libraries[0] != owner and _default(own) != _default(first) else ""
    if owner == "trl" and classes[-1].__name__ == "ModelConfig" and name.startswith(PEFT_NAMES):
        owner = "peft"
    return owner, set_by


def _missing(source: str, key: Key) -> UserError:
    return UserError(f"{source}: the key {key.name!r} is missing", expected=describe(key.hint))


def _wrong_type(source: str, key: Key, value: Any) -> UserError:
    example: Any = [value] if fits([value], key.hint) else key.example
    return UserError(
        f"{source}: {key.name} cannot take this value",
        got=describe_value(value),
        expected=describe(key.hint),
        fix=None if example is None else f"for example `{key.name}: {write_yaml(example)}`",
    )
