"""`python-sources:`: which files, in which order, and what is left out."""

import logging
import sys
from pathlib import Path

import pytest

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import check_source
from alignment.data.reading.python_sources import docstrings_of, installed_versions, source_files
from alignment.data.reading.sources import is_local, load_source, own_test_split
from alignment.errors import UserError

CODE = (
    '"""About zebra."""\n\n\nclass A:\n    """A."""\n\n    def f(self):\n        """F."""\n\n\ndef g():\n    return 1\n'
)


def install(folder, name, files):
    """Write a package as installers leave it: its files, and their names in RECORD."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, code in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(code if isinstance(code, bytes) else code.encode())
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in [*files, "zebra/absent.py"]))


@pytest.fixture
def zebra(tmp_path, monkeypatch):
    """The only packages that are installed: Zebra_Core, and other."""
    site = tmp_path / "site"
    install(
        site,
        "Zebra_Core",
        {
            "zebra/b.py": CODE,
            "zebra/a.py": "# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"),
            "zebra/copy.py": CODE,
            "zebra/empty.py": "\n",
            "zebra/broken.py": b"name = '\xe9'\n",
            "zebra/notes.txt": "no code",
            "../scripts/run.py": "outside = True\n",
        },
    )
    install(site, "other", {"other.py": 'x = "not python" 1\n', "empty_name.py": "def f():\n    '''\\ud800'''\n"})
    monkeypatch.setattr(sys, "path", [str(site)])
    return site


def test_the_files_of_a_package(zebra, caplog):
    with caplog.at_level(logging.INFO):
        rows = load_source("python-sources:zebra.core", kind="text")
    assert rows.to_list() == [
        {"text": "# -*- coding: latin-1 -*-\nname = 'é'\n", "package": "zebra-core", "path": "zebra/a.py"},
        {"text": CODE, "package": "zebra-core", "path": "zebra/b.py"},
    ]
    assert caplog.messages[-1] == (
        "Python sources of 1 packages: 5 files, 2 documents; dropped: 1 duplicates, 1 empty, 1 unreadable files"
    )


def test_docstrings(zebra, caplog):
    with caplog.at_level(logging.INFO):
        rows = load_source("python-sources:other,zebra-core?docstrings=true", kind="text")
    assert [(row["text"], row["path"]) for row in rows] == [
        ("About zebra.", "zebra/b.py"),
        ("A.", "zebra/b.py"),
        ("F.", "zebra/b.py"),
    ]
    assert "3 duplicates, 1 not Unicode, 2 unreadable files" in caplog.messages[-1]


def test_docstrings_wherever_they_stand():
    code = """
if True:
    try:
        async def f():
            'F.'
    except E:
        class B:
            'B.'
"""
    assert docstrings_of(code) == ["F.", "B."]


def test_no_name_means_all_and_the_standard_library(zebra):
    files = source_files()
    packages = {source.package for source in files}
    assert packages == {"other", "stdlib", "zebra-core"}
    assert files == sorted(files, key=lambda source: (source.package, source.path))
    paths = {source.path for source in files if source.package == "stdlib"}
    assert "ast.py" in paths and "email/message.py" in paths
    assert not any(Path(path).is_absolute() or "site-packages" in path for path in paths)
    assert installed_versions(()) == [("other", "1.0"), ("stdlib", sys.version), ("zebra-core", "1.0")]


def test_a_package_that_changes_is_read_again(zebra):
    assert len(load_source("python-sources:zebra-core", kind="text")) == 2
    (zebra / "zebra/copy.py").write_text("changed = True\n")
    assert len(load_source("python-sources:zebra-core", kind="text")) == 3


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("python-sources:", "sft", "python-sources: has no sft data(?s:.*)tokenizer or pretrain"),
        ("python-sources:zebracore", "text", r"Unknown package: zebracore(?s:.*)did you mean 'zebra-core'\?"),
        (
            "python-sources:?docstring=true",
            "text",
            r"option of python-sources: docstring(?s:.*)did you mean 'docstrings'\?",
        ),
        ("python-sources:?docstrings=yes", "text", r"cannot take this value(?s:.*)expected: true or false"),
    ],
)
def test_mistakes(zebra, name, kind, message):
    assert not is_local(name) and own_test_split(name) is None
    with pytest.raises(UserError, match=message):
        load_source(name, kind=kind)
    with pytest.raises(UserError, match=message):
        check_source(DataArguments(name), kind)


def test_only_a_training_split(zebra):
    with pytest.raises(UserError, match=r"has no split test(?s:.*)eval_share"):
        load_source("python-sources:", kind="text", split="test")
