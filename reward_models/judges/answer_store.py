"""A store of judges' answers on the disk, so that a run that was killed asks no question twice."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from alignment.durable.unwritable import errors_of_place, make_folder
from alignment.errors import UserError

GROUP = 32  # answers between two waits for the disk: a power cut loses at most these, a killed process none


@dataclass(frozen=True)
class Answer:
    """A judge's answer to one question.

    Attributes:
        value: the probability that the first reply is better, or the rating; None if the answer cannot be read.
        graded: whether the value comes from the answers' probabilities, not from a written answer alone.
        said: what the judge wrote, or its end; "" if its probabilities are read.
    """

    value: float | None
    graded: bool = False
    said: str = ""


def answer_key(identity: Mapping[str, Any], question: str, parameters: Mapping[str, Any]) -> str:
    """The key of an answer: a digest of all that it depends on.

    Args:
        identity: the judge: its endpoint and model, or the digest of its checkpoint, and its settings.
        question: the text that the judge is asked.
        parameters: what else changes the reading of the answer, such as the scale.
    """
    content = json.dumps([identity, question, parameters], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


class AnswerStore:
    """Answers by key, in memory and as a journal: a JSON line {key, value, graded, said, run} per answer.

    Each line is given to the operating system at once, and to the disk in groups. A last line without its end, which a
    killed process left, is removed: its question is asked again. The journal holds no question, address or key.
    Threads may share a store; it is a context manager, which closes the journal.

    Args:
        path: of the journal, which is created if it does not exist.
        run: names the run that asks; answers that another run, or another part of it, paid for are `free`.

    Raises:
        UserError: the journal cannot be read or written, or a complete line is damaged.
    """

    def __init__(self, path: str | Path, run: str = ""):
        self.path, self.name, self.run = Path(path), run, run
        self._lock, self._waiting = threading.Lock(), 0
        self._answers: dict[str, Answer] = {}
        self._runs: dict[str, str] = {}
        self._read_keys: set[str] = set()  # answers of earlier processes
        make_folder(self.path.parent)
        with errors_of_place(self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
            complete = content.rfind(b"\n") + 1
            self._read(content[:complete])
            # Unbuffered: a write is one call of the operating system, so that lines of two processes do not mix.
            self._file: BinaryIO = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
            if complete < len(content):
                self._file.truncate(complete)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The stored answer; None if the question has to be asked."""
        return self._answers.get(key)

    def unread(self) -> str:
        """What a judge wrote in an answer that cannot be read; "" if there is none."""
        return next((one.said for one in self._answers.values() if one.value is None and one.said), "")

    def begin_part(self, number: int) -> None:
        """Name the part of a run that asks from now on: a question counts in the part that asked it first."""
        self.run = f"{self.name}/{number}"

    def free(self, key: str) -> bool:
        """Whether another run or part has paid for the answer: it does not count against the budget again."""
        return self._runs.get(key, self.run) != self.run

    def asked_before(self, key: str) -> bool:
        """Whether this part of a named run asked the question before the run was resumed."""
        return bool(self.run) and key in self._read_keys and not self.free(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; the first answer to a question is final."""
        line = {"key": key, "value": answer.value, "graded": answer.graded, "said": answer.said}
        content = json.dumps(line | {"run": self.run}).encode() + b"\n"
        with self._lock:
            if key in self._answers:
                return
            self._answers[key], self._runs[key] = answer, self.run
            with errors_of_place(self.path):
                self._file.write(content)
                self._waiting += 1
                if self._waiting >= GROUP:
                    self._sync()

    def close(self) -> None:
        """Wait until all answers are on the disk, and close the journal."""
        with self._lock, errors_of_place(self.path):
            if not self._file.closed:
                self._sync()
                self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._waiting = 0

    def _read(self, content: bytes) -> None:
        for number, line in enumerate(content.splitlines(), 1):
            found = _entry(line)
            if found is None:
                raise UserError(
                    f"{self.path} is damaged in line {number}",
                    got=repr(line[:80].decode("utf-8", "replace")),
                    expected='an answer, such as {"key": "1f...", "value": 0.5, ...}',
                    fix="remove that line: its question is asked again; or remove the file: all are asked again",
                )
            key, answer, run = found
            if key not in self._answers:
                self._answers[key], self._runs[key] = answer, run
                self._read_keys.add(key)


def _entry(line: bytes) -> tuple[str, Answer, str] | None:
    """(key, answer, run) of a line; None for any other line."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    key, value, run, said = (entry.get(name) for name in ("key", "value", "run", "said"))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (isinstance(key, str) and isinstance(run, str) and isinstance(said, str)):
        return None
    if "value" not in entry or not (value is None or number):
        return None
    return key, Answer(None if value is None else float(value), entry.get("graded") is True, said), run
