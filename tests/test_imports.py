"""Imports go one way: a package imports from its own layer or a lower one, and no two packages import each other."""

import ast
import itertools
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    {"align"},
    {"alignment.cli"},
    {"alignment.check", "alignment.doctor"},
    {"alignment.estimate"},
    {"alignment.pipeline", "alignment.report", "alignment.serving"},
    {"alignment.stages"},
    {"alignment.callbacks"},
    {"alignment.trainers", "reward_models", "eval"},
    {"alignment.data"},
    {"alignment.models", "alignment.tokenization"},
    {"alignment.durable"},
]
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
FREE = {"alignment", "alignment.errors", "alignment.keyed_seeds", "alignment.redaction", "alignment.name_options"}
LIGHT = {"alignment.cache_places", "alignment.errors", "alignment.stages", "alignment.threads"}
FREE |= {"alignment.registration", "alignment.text", "alignment.threads", "alignment.yaml_text"}
FREE |= {"alignment.cache_places", "alignment.console", "alignment.progress"}


def source_files() -> list[Path]:
    packages = [path for name in ("alignment", "reward_models", "eval") for path in sorted((ROOT / name).rglob("*.py"))]
    return [ROOT / "align.py", *packages]


def package_of(module: str) -> str | None:
    """The layered package that a dotted name lies in; None for other libraries and what all may import."""
    parts = module.split(".")
    candidates = (".".join(parts[:2]), parts[0])
    return next((name for name in candidates if name in LEVEL), None)


def imported(path: Path, tree: ast.AST) -> set[str]:
    """Absolute dotted names of all that a file imports, wherever in it."""
    module = list(path.relative_to(ROOT).with_suffix("").parts)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def edges() -> set[tuple[str, str, str]]:
    """(importing package, imported package, file) across packages."""
    found = set()
    for path in source_files():
        own = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in imported(path, ast.parse(path.read_text(encoding="utf-8"))):
            other = package_of(name)
            if own and other and own != other:
                found.add((own, other, str(path.relative_to(ROOT))))
    return found


def test_imports_go_down():
    upward = [f"{file}: {own} imports {other}" for own, other, file in edges() if LEVEL[other] < LEVEL[own]]
    assert not upward


def test_no_two_packages_import_each_other():
    pairs = {(own, other) for own, other, _ in edges()}
    assert not [pair for pair in pairs if pair[::-1] in pairs]


def at_import(node: ast.AST) -> list[ast.AST]:
    """The import statements that run when a module is imported: not those in functions, nor those for type checkers."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [node]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = node.orelse
    return [found for child in children for found in at_import(child)]


def test_there_is_no_import_cycle():
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in source_files()
    }
    graph = {}
    for path in source_files():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        body = ast.Module(at_import(ast.parse(path.read_text(encoding="utf-8"))), [])
        graph[name] = {found if found in names else found.rpartition(".")[0] for found in imported(path, body)} - {name}
    TopologicalSorter({name: found & names for name, found in graph.items()}).prepare()  # raises CycleError


def test_every_package_has_a_layer():
    """A new package is put in the table, and what all may import imports none of them but the models."""
    found = {package_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in source_files()}
    loose = [path for path in source_files() if path.parent == ROOT / "alignment"]
    assert found - {None} == set(LEVEL)
    assert {f"alignment.{path.stem}" for path in loose} - {"alignment.__init__"} <= FREE


def test_the_console_script_imports_little_at_the_top():
    """The standard library, and modules that import nothing else: a verb is chosen before anything heavy is loaded."""
    tree = ast.parse((ROOT / "align.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = itertools.chain.from_iterable(
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] for node in top
    )
    assert set(names) <= sys.stdlib_module_names | {"collections.abc"} | LIGHT


@pytest.mark.parametrize(
    ("path", "code", "names"),
    [
        ("alignment/models/a.py", "from alignment.cli import run", {"alignment.cli.run"}),
        ("alignment/models/a.py", "def f():\n    import alignment.pipeline.graph", {"alignment.pipeline.graph"}),
        ("alignment/models/a.py", "from ..stages import sft", {"alignment.stages.sft"}),
        ("alignment/models/gpt/__init__.py", "from .presets import x", {"alignment.models.gpt.presets.x"}),
    ],
)
def test_imports_are_found(path, code, names):
    assert imported(ROOT / path, ast.parse(code)) == names
