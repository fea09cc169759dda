"""The file of votes: appended to, never overwritten; a torn last line is repaired."""

import errno
import fcntl
import json
import os
import threading

import pytest

from alignment.errors import UserError
from alignment.serving.web.votes_file import VotesFile


def vote(number: int) -> dict:
    return {"vote": "a", "replies": {"a": "é\u2028x", "b": "y"}, "number": number}


def numbers(path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]


def test_votes_are_appended_across_restarts(tmp_path):
    path = tmp_path / "votes.jsonl"
    assert "a new file" in VotesFile(path).prepare()[0] and not path.exists()
    VotesFile(path).append(vote(0))
    before = path.read_bytes()
    assert VotesFile(path).prepare() == [f"votes: 1 in {path}; new ones are appended"]
    VotesFile(path).append(vote(1))
    assert path.read_bytes().startswith(before) and numbers(path) == [0, 1]


@pytest.mark.parametrize("cut", [1, 2, 20])
@pytest.mark.parametrize("at_start", [True, False])
def test_a_torn_last_line_is_repaired(tmp_path, cut, at_start):
    """A line without its end is completed; a part of a line is moved away. Neither costs another vote."""
    path = tmp_path / "votes.jsonl"
    for number in range(3):
        VotesFile(path).append(vote(number))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    if at_start:
        notes = VotesFile(path).prepare()
        assert ("completed" if cut == 1 else "was moved to") in notes[0]
    VotesFile(path).append(vote(3))
    assert numbers(path) == ([0, 1, 2, 3] if cut == 1 else [0, 1, 3])
    torn = tmp_path / "votes.jsonl.torn"
    assert torn.exists() == (cut > 1)
    if cut > 1:
        assert torn.read_bytes().rstrip(b"\n") == whole.splitlines(keepends=True)[-1][:-cut]


def test_a_torn_first_line(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b'{"vote": "a", "repl')
    VotesFile(path).prepare()
    VotesFile(path).append(vote(1))
    assert numbers(path) == [1]


def test_servers_and_threads_share_a_file(tmp_path):
    path, count = tmp_path / "votes.jsonl", 25
    files = [VotesFile(path) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda f=file, k=k: [f.append(vote(k * count + n)) for n in range(count)])
        for k, file in enumerate(files)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(path)) == list(range(4 * count))


def test_a_vote_waits_for_another_server_that_writes(tmp_path):
    """A server in the middle of its line must not see it taken for torn by another."""
    path = tmp_path / "votes.jsonl"
    VotesFile(path).append(vote(0))
    line = json.dumps(vote(1)).encode() + b"\n"
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(line[:20])
        thread = threading.Thread(target=VotesFile(path).append, args=[vote(2)])
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        other.write(line[20:])
        fcntl.flock(other, fcntl.LOCK_UN)
        thread.join(5)
    assert numbers(path) == [0, 1, 2]


@pytest.mark.parametrize("written", [0, 10])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch, written):
    path = tmp_path / "votes.jsonl"
    VotesFile(path).append(vote(0))
    before, write = path.read_bytes(), os.write

    def full(file, data):
        if not written:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:written])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        VotesFile(path).append(vote(1))
    assert path.read_bytes() == before


def test_each_vote_is_one_write_and_a_sync(tmp_path, monkeypatch):
    calls, write, fsync = [], os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda file, data: calls.append("write") or write(file, data))
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("sync") or fsync(file))
    VotesFile(tmp_path / "votes.jsonl").append(vote(0))
    assert calls == ["write", "sync", "sync"]  # the second one is of the folder with the new file
    VotesFile(tmp_path / "votes.jsonl").append(vote(1))
    assert calls == ["write", "sync", "sync", "write", "sync"]


def test_files_of_something_else_are_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')
    with pytest.raises(UserError, match="is not a file of votes"):
        VotesFile(tmp_path / "train.jsonl").prepare()
    with pytest.raises(UserError):
        VotesFile(tmp_path).prepare()
    assert VotesFile(tmp_path / "train.jsonl").path.read_text() == '{"prompt": "x", "completion": "y"}\n'
