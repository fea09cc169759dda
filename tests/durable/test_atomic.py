"""What is written is whole or not there, and what stood there before is never lost to a failed write."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from alignment.durable import atomic
from alignment.durable.atomic import disk_full_explained, is_disk_full, new_file, new_folder, write_json, write_text
from alignment.errors import UserError

KILLED_WHILE_WRITING = """
import os, signal, sys
from alignment.durable import atomic
with atomic.new_folder(sys.argv[1]) as partial:
    (partial / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from alignment.durable import atomic
rename = Path.rename
def once(self, target):
    rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = once
with atomic.new_folder(sys.argv[1]) as partial:
    (partial / "weights").write_text("new")
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert names(tmp_path) == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    with pytest.raises(KeyboardInterrupt), new_file(path) as partial:
        partial.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "deep" / "checkpoint"
    with new_folder(path) as partial:
        (partial / "old").write_text("old")
        assert not path.exists()
    with new_folder(path) as partial:
        (partial / "new").write_text("new")
        assert names(path) == ["old"]
    assert names(path) == ["new"]
    assert names(path.parent) == ["checkpoint"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint"
    with new_folder(path) as partial:
        (partial / "old").write_text("old")
    with pytest.raises(KeyError), new_folder(path) as partial:
        (partial / "new").write_text("new")
        raise KeyError
    assert names(path) == ["old"]
    assert names(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize("program", [KILLED_WHILE_WRITING, KILLED_BETWEEN_RENAMES])
def test_a_killed_write_loses_nothing_and_the_next_one_clears_up(tmp_path, program):
    path = tmp_path / "checkpoint"
    with new_folder(path) as partial:
        (partial / "weights").write_text("old")
    done = subprocess.run([sys.executable, "-c", program, path])
    assert done.returncode == -9
    kept = [folder for folder in tmp_path.iterdir() if (folder / "weights").read_text() == "old"]
    assert len(kept) == 1
    with pytest.raises(KeyError), new_folder(path) as partial:
        assert names(partial) == []
        raise KeyError
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["checkpoint"]


def test_all_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """The order that a power cut asks for: contents, then the rename, then the folder's names."""
    events = []
    monkeypatch.setattr(atomic, "sync_file", lambda path: events.append(f"sync {path.name}"))
    monkeypatch.setattr(atomic, "sync_folder", lambda path: events.append(f"names {path.name}"))
    replace, rename = os.replace, atomic.Path.rename
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    monkeypatch.setattr(atomic.Path, "rename", lambda *paths: (events.append("rename"), rename(*paths)))
    write_text(tmp_path / "a", "text")
    assert events == [f"sync a.{os.getpid()}.partial", "rename", f"names {tmp_path.name}"]
    events.clear()
    with new_folder(tmp_path / "b") as partial:
        (partial / "c").write_text("text")
    assert events == ["sync c", "names b.partial", "rename", f"names {tmp_path.name}"]


def test_without_sync_nothing_waits_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("waited"))
    with new_folder(tmp_path / "a", sync=False) as partial:
        write_text(partial / "b", "text", sync=False)
    assert names(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained(tmp_path, number):
    with pytest.raises(UserError) as raised, disk_full_explained("the weights", tmp_path / "not" / "yet", 2_000_000):
        raise OSError(number, os.strerror(number))
    text = str(raised.value)
    assert "the weights" in text
    assert f"free at {tmp_path}" in text
    assert "2 MB free" in text
    assert "repeat the command" in text


def test_other_errors_are_not(tmp_path):
    with pytest.raises(PermissionError), disk_full_explained("the weights", tmp_path):
        raise PermissionError(errno.EACCES, "no")
    assert not is_disk_full(RuntimeError("inline_container.cc: bad magic"), tmp_path)


FILL = """
import pathlib, sys, torch, safetensors.torch
from alignment.durable.atomic import disk_full_explained
from alignment.errors import UserError
tensors, where = {"a": torch.zeros(1_000_000)}, pathlib.Path("/mnt")
writers = [
    lambda: safetensors.torch.save_file(tensors, where / "a.safetensors"),
    lambda: torch.save(tensors, where / "a.pt"),
    lambda: (where / "a.txt").write_text("a" * 2_000_000),
]
for write in writers:
    try:
        with disk_full_explained("the weights", where):
            write()
    except UserError as error:
        print(error.problem)
    for path in where.iterdir():
        path.unlink()
"""


def test_a_full_disk_is_known_whoever_writes():
    """safetensors and torch raise errors of their own; shown on a small tmpfs in a namespace of its own."""
    mount = "mount -t tmpfs -o size=1m none /mnt"
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*enter, mount], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    command = f'{mount} && exec "$0" -c "$1"'
    done = subprocess.run([*enter, command, sys.executable, FILL], capture_output=True, text=True, check=True)
    assert done.stdout.count("no space left on the disk for the weights") == 3
