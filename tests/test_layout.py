"""The layout: small folders, names that say one thing, no comparison with the name of a stage."""

import ast
from collections import defaultdict
from pathlib import Path

from alignment.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("alignment", "reward_models", "eval")
MOST_MODULES, MOST_LINES = 14, 500
LONG = {"alignment/models/gpt/modeling_gpt.py"}  # the architecture in one file, as transformers has it
IN_TRAINERS = {"trainer", "config", "models"}  # one of each in the folder of a trainer
TABLE = "alignment/stages/__init__.py"


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_folder_has_many_modules():
    counts: dict[str, int] = defaultdict(int)
    for path in modules():
        counts[named(path.parent)] += path.stem != "__init__"
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_no_two_modules_have_one_name():
    """Beside those in cli/, which are called as their verb, the hooks of suites, and the parts of trainers."""
    places = defaultdict(list)
    for path in modules():
        folder = named(path.parent)
        exempt = path.stem == "__init__" or folder.startswith(("alignment/cli/", "eval/suites/"))
        if not exempt and not (folder.startswith("alignment/trainers/") and path.stem in IN_TRAINERS):
            places[path.stem].append(named(path))
    assert {stem: found for stem, found in places.items() if len(found) > 1} == {}


def test_no_module_is_long():
    long = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES and name not in LONG} == {}


def literals(node: ast.AST) -> set[str]:
    """The strings that a comparison compares with, also in a tuple, list or set."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return set().union(*map(literals, node.elts))
    return set()


def compared_strings(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found |= set().union(*map(literals, [node.left, *node.comparators]))
        elif isinstance(node, ast.MatchValue):
            found |= literals(node.value)
    return found


def test_a_stages_name_is_compared_in_its_own_module_alone():
    """What differs between stages is a fact in their table, so that a new stage is one row."""
    wrong = {}
    for path in [ROOT / "align.py", *modules()]:
        own = {path.stem} if path.parent == ROOT / "alignment/stages" else set()
        names = compared_strings(ast.parse(path.read_text(encoding="utf-8"))) & STAGES.keys() - own
        if names and named(path) != TABLE:
            wrong[named(path)] = sorted(names)
    assert wrong == {}


def test_comparisons_are_found():
    code = 'a == "sft"; b in ("dpo", "ppo"); "kto" != c; d = "reward"; e["grpo"]'
    assert compared_strings(ast.parse(code)) == {"sft", "dpo", "ppo", "kto"}
