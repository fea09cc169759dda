"""YAML 1.2, as recipes, command-line overrides and tables are written: `1e-3` is a number, `no` and `on` are text."""

import io
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode

from alignment.errors import UserError

LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


class RecipeConstructor(SafeConstructor):
    """ruamel's safe constructor, with dates, `=` and numbers with a leading zero kept as the text that was written."""

    def construct_integer(self, node: ScalarNode) -> Any:
        return node.value if LEADING_ZERO.fullmatch(node.value) else self.construct_yaml_int(node)


RecipeConstructor.add_constructor("tag:yaml.org,2002:int", RecipeConstructor.construct_integer)
for _kind in ("timestamp", "value"):
    RecipeConstructor.add_constructor(f"tag:yaml.org,2002:{_kind}", RecipeConstructor.construct_yaml_str)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Args:
        source: names the text in errors: a path or an option.

    Raises:
        UserError: the text is not valid YAML, or a mapping has a key twice.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = RecipeConstructor
    try:
        return reader.load(text)
    except (YAMLError, ValueError) as error:  # ValueError: `+_` looks like a number to ruamel
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        raise UserError(
            f"{where}: not valid YAML",
            got=getattr(error, "problem", None) or str(error),
            fix="correct that line; text with a colon, # or brackets in it goes in quotes",
        ) from error


def write_yaml(value: Any) -> str:
    """A value as YAML on one line: `[q, v]`."""
    writer, stream = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style, writer.width = True, 10_000
    writer.dump(value, stream)
    return stream.getvalue().split("\n")[0]
