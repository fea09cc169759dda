"""The lock, held by real processes."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from alignment.durable.lock import locked
from alignment.errors import UserError

HOLD = """
import sys
from pathlib import Path
from alignment.durable.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.stdin.close()
    process.wait()


def test_a_second_process_is_refused_and_told_who_holds_it(holder, tmp_path):
    with pytest.raises(UserError) as raised, locked(tmp_path):
        pass
    assert f"process {holder.pid} on {socket.gethostname()}, since 20" in str(raised.value)
    assert holder.poll() is None
    with pytest.raises(UserError, match=f"process {holder.pid}"), locked(tmp_path):  # the first refusal kept the name
        pass


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()


def test_the_lock_is_free_after_the_work(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            pass
