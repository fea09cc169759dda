"""`python-sources:`: Python files of installed packages as documents, for pretraining without a download."""

from __future__ import annotations

import ast
import logging
import re
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError, unknown
from alignment.name_options import read_options, split_name

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

logger = logging.getLogger(__name__)

PYTHON_SOURCES = "python-sources"
STANDARD_LIBRARY = "stdlib"  # its name among the packages
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)
NOT_STANDARD = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class PythonSources:
    """The options of a name: packages (none: all installed ones and the standard library), code or docstrings."""

    packages: tuple[str, ...] = ()
    docstrings: bool = False


@dataclass(frozen=True)
class SourceFile:
    """A Python file of a package."""

    package: str
    path: str  # relative to where packages are installed
    file: Path


def is_python_sources(name: str) -> bool:
    """Return whether a name means Python sources."""
    return split_name(name)[0].partition(":")[0] == PYTHON_SOURCES


def parse_python_sources(name: str, kind: str) -> PythonSources:
    """Parse a name such as `python-sources:numpy,torch?docstrings=true`."""
    if kind != "text":
        raise UserError(
            f"{name} has no {kind} data.",
            got=f"kind {kind}",
            expected="a stage that learns from plain text: tokenizer or pretrain",
            fix="use another data set",
        )
    address, query = split_name(name)
    packages = tuple(_normal(package) for package in address.partition(":")[2].split(",") if package.strip())
    options = read_options(query or "", PYTHON_SOURCES, {"docstrings": bool})
    known = (STANDARD_LIBRARY, *_distributions())
    for package in packages:
        if package not in known:
            raise unknown("package", package, known, expected="an installed package, or stdlib")
    return PythonSources(packages, **options)


def read_python_sources(wanted: PythonSources) -> Dataset:
    """Return rows {text, package, path}: a document per file or docstring, sorted by package and path.

    Duplicates are dropped, and so are files that are empty, not decodable or (for docstrings) not valid Python; the log
    has their numbers.
    """
    from alignment.data.reading.arrow_cache import cached_tables, code_digest, file_states

    files = source_files(wanted.packages)
    names = [(source.package, source.path) for source in files]
    key = (PYTHON_SOURCES, code_digest(__file__), wanted, names, file_states(source.file for source in files))
    rows, counts = cached_tables(key, lambda notes: _tables(files, wanted.docstrings, notes))
    logger.info(
        "Python sources of %d packages: %d files, %d documents; dropped: %s",
        len({source.package for source in files}),
        len(files),
        len(rows),
        ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none",
    )
    return rows


def source_files(packages: Iterable[str] = ()) -> list[SourceFile]:
    """Return the .py files of packages, sorted; by default of all installed ones and the standard library."""
    distributions = _distributions()
    files = []
    for package in packages or (STANDARD_LIBRARY, *distributions):
        if package == STANDARD_LIBRARY:
            files += _standard_library()
            continue
        for path in distributions[package].files or ():
            # Files outside (scripts in ../../bin) are not part of the package.
            file = Path(path.locate())
            if path.suffix == ".py" and ".." not in path.parts and file.is_file():
                files.append(SourceFile(package, path.as_posix(), file))
    return sorted(files, key=lambda source: (source.package, source.path))


def installed_versions(packages: Iterable[str]) -> list[tuple[str, str]]:
    """Return name and version of each package."""
    distributions = _distributions()
    named = packages or (STANDARD_LIBRARY, *distributions)
    return [(name, sys.version if name == STANDARD_LIBRARY else distributions[name].version) for name in sorted(named)]


def _standard_library() -> list[SourceFile]:
    root = Path(sysconfig.get_path("stdlib"))
    found = ((file.relative_to(root), file) for file in root.rglob("*.py"))
    return [
        SourceFile(STANDARD_LIBRARY, path.as_posix(), file)
        for path, file in found
        if not NOT_STANDARD & set(path.parts) and file.is_file()
    ]


def _distributions() -> dict[str, metadata.Distribution]:
    """Return installed distributions by name, sorted; of several with one name the first on the path, as imports do."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        found.setdefault(_normal(distribution.metadata["Name"] or ""), distribution)
    return dict(sorted((name, distribution) for name, distribution in found.items() if name))


def _normal(name: str) -> str:
    """Return a package's name in the normalised form of package indexes."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


# Documents ----------------------------------------------------------------------------------------------------------


def _tables(files: list[SourceFile], docstrings: bool, counts: dict[str, Any]) -> Iterator[pyarrow.Table]:
    """Yield tables of documents, and write the numbers of dropped ones by reason to `counts`."""
    import pyarrow
    from datasets import Features, Value

    from alignment.data.reading.arrow_cache import batches

    schema = Features(dict.fromkeys(("text", "package", "path"), Value("string"))).arrow_schema
    left_out: Counter[str] = Counter()
    for rows in batches((row, len(row["text"])) for row in _rows(files, docstrings, left_out)):
        yield pyarrow.Table.from_pylist(rows, schema=schema)
    counts.update(left_out)


def _rows(files: list[SourceFile], docstrings: bool, left_out: Counter[str]) -> Iterator[dict[str, str]]:
    seen: set[bytes] = set()
    for source in files:
        try:
            with tokenize.open(source.file) as stream:  # in the encoding that the file declares
                code = stream.read()
            texts = docstrings_of(code) if docstrings else [code]
        except (SyntaxError, ValueError, RecursionError, OSError):
            left_out["unreadable files"] += 1
            continue
        for text in texts:
            try:
                digest = sha256(text.encode()).digest()
            except UnicodeEncodeError:  # an escape of a lone surrogate
                left_out["not Unicode"] += 1
                continue
            if digest in seen or not text.strip():
                left_out["duplicates" if text.strip() else "empty"] += 1
                continue
            seen.add(digest)
            yield {"text": text, "package": source.package, "path": source.path}


def docstrings_of(code: str) -> list[str]:
    """Return the docstrings of a module and its classes and functions, in the order of the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # about escapes in strings
        tree = ast.parse(code)
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # the list grows; expressions have no docstrings and are many, so only statements are visited
        nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, STATEMENTS)]
    documented = sorted(
        (node for node in nodes if isinstance(node, DOCUMENTED)), key=lambda node: getattr(node, "lineno", 0)
    )
    return [text for node in documented if (text := ast.get_docstring(node))]
