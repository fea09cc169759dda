"""The tests of a row for `code_passes`: read as data sets hold them, or refused if they could not judge any code."""

import ast
import json
import re
from importlib.util import find_spec
from textwrap import dedent
from typing import Any

from alignment.errors import UserError
from reward_models.returned import shown
from reward_models.rule_columns import is_blank
from reward_models.rules.sandbox_tests import runs_nothing, takes_arguments, test_functions

SOLUTION = "solution"  # the module as which the tests may import the code
BLOCK = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
JUDGES = re.compile(r"assert|unittest|pytest|doctest|testing|hypothesis|exit|fail", re.IGNORECASE)


def read_tests(value: Any, column: str) -> str:
    """The tests in a row's column as Python code, "" for a row without tests.

    Args:
        value: code or a list of it, also as JSON text, in Markdown's fences or indented.

    Raises:
        UserError: the value is neither a text nor a list of texts, or its code could not judge any solution.
    """
    given = _in_json(value) if isinstance(value, str) else value
    parts = list(given) if isinstance(given, list | tuple) else [given]
    texts = [one for one in parts if not is_blank(one)]
    if not all(isinstance(one, str) for one in texts):
        raise UserError(
            f"code_passes: the column {column!r} does not hold Python code.",
            got=shown(value),
            expected="Python code such as assertions, or a list of it",
            fix="name the column with the tests: code_passes?allow_execution=true&column=NAME",
        )
    tests = "\n".join(map(_bare, texts))
    if tests:
        _require_judging(tests)
    return tests


def _in_json(text: str) -> Any:
    """The list in a JSON text; other texts as they are."""
    if not text.strip().startswith("["):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else text


def _bare(text: str) -> str:
    """Code without a byte order mark, Markdown's fences and the indentation of the whole."""
    text = text.lstrip("\ufeff").replace("\r\n", "\n")
    blocks = BLOCK.findall(text)
    return dedent("\n".join(map(dedent, blocks)) if blocks else text)


def _require_judging(tests: str) -> None:
    """Raise for tests that every code would pass, or that no code could pass."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        doctest = tests.lstrip().startswith(">>>")
        raise _refused(
            "are not Python",
            tests,
            got=f"{type(error).__name__}: {error}",
            fix="write assertions: assert f(1) == 2, not >>> f(1)" if doctest else "correct the column",
        ) from error
    if runs_nothing(tests) and not (names := test_functions(tests)):
        raise _refused("run nothing, so that any code would pass", tests, fix="add the call to the column")
    if not any(map(_judges, ast.walk(tree))):
        fix = "write assertions: assert f(1) == 2, not f(1) == 2"
        raise _refused("assert nothing, so that any code would pass", tests, fix=fix)
    if runs_nothing(tests) and (wrong := [name for name in names if takes_arguments(tests, name)]):
        got = f"{wrong[0]} takes arguments, as from pytest's parametrize or fixtures"
        raise _refused("cannot be called", tests, got=got, fix="write the cases into functions without arguments")
    for module in _imported(tree):
        if module != SOLUTION and not _is_installed(module):
            fix = "install it; or leave the import out: the tests see the names of the code"
            raise _refused("import a module that this machine does not have", tests, got=module, fix=fix)


def _refused(problem: str, tests: str, fix: str, got: str | None = None) -> UserError:
    return UserError(
        f"code_passes: a row's tests {problem}",
        got=got or tests.strip().splitlines()[0],
        expected="assertions, a call such as check(NAME), or functions named test...",
        fix=fix,
    )


def _judges(node: ast.AST) -> bool:
    """Whether a part of the tests can make them fail by its purpose, not only by an error of the code."""
    name = getattr(node, "id", getattr(node, "attr", getattr(node, "name", "")))
    return isinstance(node, ast.Assert | ast.Raise) or (isinstance(name, str) and JUDGES.search(name) is not None)


def _imported(tree: ast.Module) -> list[str]:
    """The packages that the tests import before anything else runs."""
    names = [one.name for node in tree.body if isinstance(node, ast.Import) for one in node.names]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return [name.partition(".")[0] for name in names]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # a module without a spec, such as __main__
        return True
