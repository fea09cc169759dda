"""Whatever cannot be written is a UserError that names the place; other errors pass."""

import errno
import os

import pytest

from alignment.durable.atomic import new_file, new_folder, write_json, write_text
from alignment.durable.lock import locked
from alignment.durable.unwritable import explain, make_folder, require_writable
from alignment.errors import UserError


def held(path):
    with locked(path):
        pass


def filled(path):
    with new_folder(path) as folder:
        (folder / "file").write_text("text")


WRITERS = {
    "write_text": lambda path: write_text(path, "text"),
    "write_json": lambda path: write_json(path, {}),
    "new_folder": filled,
    "make_folder": make_folder,
    "require_writable": require_writable,
    "locked": held,
}
PLACES = {
    "below a file": "a-file/x",
    "far below a file": "a-file/x/y",
    "too long": "x" * 300,
    "too long above": f"{'x' * 300}/y",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_place_that_cannot_be_written_is_named(writer, place, tmp_path):
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(UserError, match=str(tmp_path)) as raised:
        writer(tmp_path / place)
    assert raised.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]
    assert (tmp_path / "a-file").read_text() == "x"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR])
def test_what_the_system_says_of_a_path_is_explained(number):
    error = OSError(number, os.strerror(number), "/mnt/disk/file")
    assert "/mnt/disk/file" in str(explain(error))
    wrapped = RuntimeError("a library's")
    wrapped.__cause__ = error
    assert "/mnt/disk/file" in str(explain(wrapped))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no", "x"), OSError("no path"), ValueError("x"), KeyError("suite")]
)
def test_a_defect_is_not(error):
    assert explain(error) is None


def test_an_error_of_the_writer_itself_passes(tmp_path):
    with pytest.raises(PermissionError), new_file(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no", "/elsewhere")
    with pytest.raises(KeyError), new_file(tmp_path / "a"):
        raise KeyError("x")


def test_a_look_leaves_nothing(tmp_path):
    require_writable(tmp_path / "a/b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "c").mkdir()
    require_writable(tmp_path / "c")
    assert (tmp_path / "c").is_dir() and not list((tmp_path / "c").iterdir())
