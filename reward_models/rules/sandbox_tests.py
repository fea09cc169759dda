"""The tests' side of the sandbox: their name space, how they run, and whether they run anything.

Imports the standard library alone, as it runs in the processes of sandbox_child.py.
"""

import ast
import builtins
import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from socket import socket
from types import CodeType, ModuleType
from typing import Any

from reward_models.rules.sandbox_remote import Remote, give_up, truth
from reward_models.rules.sandbox_rpc import Offer, Peer

FUNCTION_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTION_DEFINITIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
SHORT_NAMES = {"np": "numpy", "pd": "pandas"}


class Names(dict[str, Any]):
    """The tests' name space: their own names, then the solution's, then Python's.

    A module that the solution has imported under its own name is imported afresh: the solution may have patched its
    copy, for example `math.isclose` to always say yes.

    Args:
        offered: the solution's global names.
    """

    def __init__(self, peer: Peer, offered: dict[str, Offer]):
        super().__init__(__name__="__main__", __builtins__=builtins, __truth__=truth)
        self.peer, self.offered = peer, offered

    def __missing__(self, name: str) -> Any:
        if name not in self.offered:
            raise KeyError(name)
        module = self.offered[name]
        if not isinstance(module, str):
            found = self.peer.ask("name", name)
            if module is True and name[0].isupper() and type(found) is Remote:
                object.__setattr__(found, "_makes", True)
            return found
        if module not in (name, SHORT_NAMES.get(name)):
            raise KeyError(name)
        return importlib.import_module(module)


def run_tests(line: socket, tests: str) -> None:
    """Run the tests of a solution; their exceptions propagate."""
    # Without this module's own __future__ imports, if it ever has some.
    tree = OfSolution().visit(WithTruth().visit(ast.parse(tests)))
    peer, code = Peer(line), compile(tree, "tests", "exec", dont_inherit=True)
    ready, offered = peer.receive()
    if ready != "ready" or not isinstance(offered, dict):
        give_up()
    own = {name for name in offered if not hasattr(builtins, name)}
    if own & names_of(code):  # then a `set` or `sorted` of the solution does not judge what its functions return
        offered = {name: module for name, module in offered.items() if name in own}
    names = Names(peer, offered)
    watched: AbstractContextManager[None] = unittest_results(names) if "unittest" in tests else nullcontext()
    with watched:
        exec(code, names)
    for name in uncalled_tests(tests):
        if names[name]() is not None:
            raise TypeError(f"{name} returned a value: is it a coroutine that did not run?")


class WithTruth(ast.NodeTransformer):
    """Let `while node:` and `if node:` ask an object for its truth value, and nothing else, such as `assert f(1)`."""

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        node.test = self.asked(node.test)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        node.test = self.asked(node.test)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        node.test = self.asked(node.test)
        return node

    def asked(self, test: ast.expr) -> ast.expr:
        if isinstance(test, ast.BoolOp):
            test.values = [self.asked(one) for one in test.values]
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test.operand = self.asked(test.operand)
        elif isinstance(test, ast.Name | ast.Attribute):
            call = ast.Call(ast.Name("__truth__", ast.Load()), [test], [])
            return ast.fix_missing_locations(ast.copy_location(call, test))
        return test


class OfSolution(ast.NodeTransformer):
    """Let `from solution import f as g` and `import solution` name the solution's global names."""

    def __init__(self) -> None:
        self.modules: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module != "solution" or node.level:
            return node
        renamed = [one for one in node.names if one.asname not in (None, one.name)]
        code = "\n".join(f"{one.asname} = {one.name}" for one in renamed) or "pass"
        return ast.fix_missing_locations(ast.copy_location(ast.If(ast.Constant(True), ast.parse(code).body, []), node))

    def visit_Import(self, node: ast.Import) -> ast.AST:
        self.modules |= {one.asname or one.name for one in node.names if one.name == "solution"}
        node.names = [one for one in node.names if one.name != "solution"]
        return node if node.names else ast.copy_location(ast.Pass(), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            return ast.copy_location(ast.Name(node.attr, node.ctx), node)
        return node


class TestsModule(ModuleType):
    """The tests as the module `__main__`, in which `unittest.main` looks for test cases."""

    def __init__(self, names: dict[str, Any]):
        super().__init__("__main__")
        self._names = names

    def __dir__(self) -> list[str]:
        return list(self._names)

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(name)
        return self._names[name]


@contextmanager
def unittest_results(names: dict[str, Any]) -> Iterator[None]:
    """Raise if a unittest failed or no test case ran, whatever the tests do with the results.

    `unittest.main()` ends with an exit of its own; `exit=False` and a runner return results that nobody looks at.
    """
    unittest: Any = importlib.import_module("unittest")
    results: list[Any] = []
    run = unittest.TestCase.run

    def noted(case: Any, result: Any = None) -> Any:
        results.append(run(case, result) or result)
        return results[-1]

    unittest.TestCase.run = noted
    sys.modules["__main__"], sys.argv[1:] = TestsModule(names), []
    try:
        yield
    except SystemExit as error:
        if error.code or not results:
            raise
    cases = [one for one in names.values() if isinstance(one, type) and issubclass(one, unittest.TestCase)]
    if (cases and not results) or not all(one.wasSuccessful() for one in results):
        raise AssertionError("a unittest failed, or none ran")


def names_of(code: CodeType) -> set[str]:
    """All global names, and names of attributes, that code uses."""
    return {*code.co_names}.union(*(names_of(one) for one in code.co_consts if isinstance(one, CodeType)))


def runs_nothing(tests: str) -> bool:
    """Whether tests only define and import, such as a `check(candidate)` that nobody calls."""

    def runs(one: ast.stmt) -> bool:
        if isinstance(one, ast.Expr | ast.Assign):  # a docstring, a constant
            return any(isinstance(part, ast.Call) for part in ast.walk(one))
        return not isinstance(one, DEFINITIONS)

    return not any(map(runs, ast.parse(tests).body))


def test_functions(tests: str) -> list[str]:
    """Names of the functions that pytest would run."""
    body = ast.parse(tests).body
    return [one.name for one in body if isinstance(one, FUNCTION_DEFINITIONS) and one.name.startswith("test")]


def takes_arguments(tests: str, name: str) -> bool:
    """Whether a function that the tests define cannot be called without arguments."""
    for one in ast.parse(tests).body:
        if isinstance(one, FUNCTION_DEFINITIONS) and one.name == name:
            given = one.args
            positional = [*given.posonlyargs, *given.args]
            return len(positional) > len(given.defaults) or None in given.kw_defaults
    return False


def uncalled_tests(tests: str) -> list[str]:
    """Names of the functions that pytest would run, as far as the tests do not use them themselves."""
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return [name for name in test_functions(tests) if name not in used and not takes_arguments(tests, name)]
