"""Mutation operators: single changes of a Python source, by position, so that the rest stays as it is byte for byte.

Left alone: docstrings and other strings, annotations, decorators, imports, `__str__` and `__repr__`, what is passed to
an exception or to a logger, and keyword arguments whose removal cannot show in a test on this machine
(`INVISIBLE`). Code inside f-strings is left alone too: Python 3.11 gives it no positions.
"""

import ast
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

COMPARE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
COMPARE |= {"in": "not in", "not in": "in", "is": "is not", "is not": "is"}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "%": "*", "**": "*", "|": "&", "&": "|"}
NAMES = {"argmax": "argmin", "max": "min", "maximum": "minimum", "sum": "mean", "any": "all", "floor": "ceil"}
NAMES |= {"zeros": "ones", "zeros_like": "ones_like", "exp": "expm1", "cumsum": "cumprod", "amax": "amin"}
NAMES |= {new: old for old, new in NAMES.items()}
BUILTINS = ("max", "min", "any", "all")  # of NAMES, those that are functions by themselves too
# Besides methods and library functions: what our own functions take by keyword mostly has no default.
WITH_DEFAULTS = ("sorted", "sum", "min", "max")
INVISIBLE = {"strict", "device", "encoding", "exist_ok", "parents", "stacklevel"}
MESSAGES = re.compile(r"(logger|warnings|logging)\.\w+|\w*(Error|Errors|Warning|Exception)|print|say")
OPERATORS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in"}
OPERATORS |= {ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
OPERATORS |= {ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.BitOr: "|", ast.BitAnd: "&"}


@dataclass(frozen=True)
class Mutant:
    """One change of a file: `new` in place of the bytes from `start` to `end`.

    Attributes:
        line: where it begins, from 1.
        statement: first and last line of the statement that it is in, without the statements in that; for a default
            argument those of the function. None for what runs when the module is imported.
    """

    path: str
    function: str
    line: int
    statement: tuple[int, int] | None
    start: int
    end: int
    new: str
    kind: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]


class Finder(ast.NodeVisitor):
    """Every mutant of a file, in the order of the tree; some may not be valid Python."""

    def __init__(self, path: str, source: bytes):
        self.path, self.source = path, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []
        self.statement: tuple[int, int] | None = None
        self.functions = 0
        self.found: list[Mutant] = []

    def place(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.place(node.lineno, node.col_offset), self.place(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def add(self, kind: str, start: int, end: int, new: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        function = ".".join(self.scope)
        self.found.append(Mutant(self.path, function, line, self.statement, start, end, new, kind))

    def replace(self, kind: str, node: ast.AST, new: str) -> None:
        self.add(kind, *self.span(node), new)

    def swap_between(self, kind: str, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replace the operator that stands between two operands (there may be brackets and line ends too)."""
        start, end = self.span(left)[1], self.span(right)[0]
        pattern = rf"\b{old.replace(' ', chr(92) + 's+')}\b" if old[0].isalpha() else re.escape(old)
        if found := re.search(pattern.encode(), self.source[start:end]):
            self.add(kind, start + found.start(), start + found.end(), new)

    def visit(self, node: ast.AST) -> None:
        before = self.statement
        if isinstance(node, ast.stmt) and self.functions:
            body = getattr(node, "body", None)
            self.statement = node.lineno, max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
        super().visit(node)
        self.statement = before

    # What is not looked into.
    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...
    def visit_Import(self, node: ast.Import) -> None: ...
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...

    def visit_arg(self, node: ast.arg) -> None: ...

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.inside(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("__str__", "__repr__"):
            return
        self.functions += 1
        self.statement = node.body[0].lineno, node.end_lineno
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(default)
        self.inside(node.name, node.body)
        self.functions -= 1

    def inside(self, name: str, body: list[ast.stmt]) -> None:
        self.scope.append(name)
        for statement in body:
            self.visit(statement)
        self.scope.pop()

    # Statements.
    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.negate(node.test)
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def negate(self, test: ast.expr) -> None:
        self.replace("negated condition", test, f"(not ({self.text(test)}))")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.replace("returned None", node.value, "None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not is_message(node.value):
            self.replace("statement removed", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace("statement removed", node, "pass")
        old = OPERATORS.get(type(node.op))
        if old in ARITHMETIC:
            self.swap_between("arithmetic", node.target, node.value, old, ARITHMETIC[old])
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace("loop control", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self.replace("loop control", node, "continue")

    def visit_Raise(self, node: ast.Raise) -> None: ...

    # Expressions.
    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            old = OPERATORS[type(operator)]
            self.swap_between("comparison", left, right, old, COMPARE[old])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        old = OPERATORS.get(type(node.op))
        if old in ARITHMETIC and not any(map(is_text, (node.left, node.right))):
            self.swap_between("arithmetic", node.left, node.right, old, ARITHMETIC[old])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.swap_between("and/or", left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            whole = isinstance(node.operand, ast.Constant | ast.Name | ast.Attribute | ast.Call | ast.Subscript)
            self.replace(
                "sign or not removed", node, self.text(node.operand) if whole else f"({self.text(node.operand)})"
            )
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant) and node.operand.value == 1:
            self.replace("constant", node, "0")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        for new in other_constants(node.value):
            self.replace("constant", node, new)

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in filter(None, (node.lower, node.upper)):
            self.replace("slice bound removed", bound, "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if is_message(node):
            return
        if isinstance(node.func, ast.Attribute) and node.func.attr in NAMES:
            end = self.span(node.func)[1]
            self.add("function", end - len(node.func.attr), end, NAMES[node.func.attr])
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
            self.replace("function", node.func, NAMES[node.func.id])
        if isinstance(node.func, ast.Attribute) or ast.unparse(node.func) in WITH_DEFAULTS:
            self.drop_keywords(node)
        self.visit(node.func)
        for child in (*node.args, *(word.value for word in node.keywords if word.arg not in INVISIBLE)):
            self.visit(child)

    def drop_keywords(self, node: ast.Call) -> None:
        """A call without each of its keyword arguments."""
        places = sorted([*node.args, *(word.value for word in node.keywords)], key=lambda one: self.span(one)[0])
        for word in node.keywords:
            before = places.index(word.value) - 1
            if word.arg and word.arg not in INVISIBLE:
                start = self.span(places[before])[1] if before >= 0 else self.place(word.lineno, word.col_offset)
                self.add("keyword removed", start, self.span(word.value)[1], "")


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def is_message(node: ast.Call) -> bool:
    return bool(MESSAGES.fullmatch(ast.unparse(node.func)))


def other_constants(value: object) -> list[str]:
    """What to put in place of a number or truth value; nothing for texts and None."""
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return {0: ["1"], 1: ["0", "2"]}.get(value, [str(value + 1)])
    if isinstance(value, float):
        return ["1.0" if abs(value) < 1e-3 else repr(value * 2)]
    return []


def mutants(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file that are valid Python and another program."""
    tree = ast.parse(source)
    finder = Finder(path, source)
    finder.visit(tree)
    before = ast.dump(tree)
    return [mutant for mutant in finder.found if is_another_program(mutant.apply(source), before)]


def is_another_program(source: bytes, before: str) -> bool:
    try:
        return ast.dump(ast.parse(source)) != before
    except SyntaxError:
        return False


def sampled(path: str, source: bytes, seed: int, share: float = 1.0, most: int | None = None) -> Iterator[Mutant]:
    """At most one mutant a line, of a share of the lines, in the order of the file.

    What is drawn for a line depends on the seed, the file's name and the line's text, so that a change elsewhere in
    the file leaves it.
    """
    lines = source.decode().split("\n")
    by_line: dict[int, list[Mutant]] = defaultdict(list)
    for mutant in mutants(path, source):
        by_line[mutant.line].append(mutant)
    seen: dict[str, int] = defaultdict(int)
    drawn = []
    for line in sorted(by_line):
        text = lines[line - 1].strip()
        draw = random.Random(f"{seed} {path} {text} {seen[text]}")
        seen[text] += 1
        telling = [mutant for mutant in by_line[line] if mutant.kind != "returned None"]  # the easiest to notice
        drawn.append((draw.random(), line, draw.choice(telling or by_line[line])))
    kept = sorted(one[:2] for one in drawn if one[0] < share)[:most]
    yield from (mutant for number, line, mutant in drawn if (number, line) in kept)


def shown(mutant: Mutant, source: bytes) -> tuple[str, str]:
    """The statement's line before and after the change, without indentation."""
    first = source.rfind(b"\n", 0, mutant.start) + 1
    last = source.find(b"\n", mutant.end)
    last = len(source) if last < 0 else last
    before = source[first:last]
    after = source[first : mutant.start] + mutant.new.encode() + source[mutant.end : last]
    return tuple(" ".join(text.decode().split()) for text in (before, after))
