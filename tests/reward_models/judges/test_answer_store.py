"""The store of answers: what a killed run leaves, and which damage is an error."""

import json
import threading

import pytest

from alignment.errors import UserError
from reward_models.judges.answer_store import GROUP, Answer, AnswerStore, answer_key

ANSWERS = {f"k{number}": Answer(number / 7, True, "é\n\u2028x") for number in range(3)} | {"none": Answer(None)}


def filled(path, run=""):
    with AnswerStore(path, run) as store:
        for key, answer in ANSWERS.items():
            store.put(key, answer)
    return path


def test_answers_are_there_again(tmp_path):
    path = filled(tmp_path / "sub" / "answers.jsonl")
    with AnswerStore(path) as store:
        assert {key: store.get(key) for key in ANSWERS} == ANSWERS and len(store) == 4 and store.get("k9") is None
        store.put("k0", Answer(0.9))  # the first answer is final
        assert store.get("k0") == ANSWERS["k0"]
    assert len(path.read_text().split("\n")) == 5


def test_a_line_without_its_end_is_asked_again(tmp_path):
    """A kill may cut the last line anywhere."""
    content = filled(tmp_path / "answers.jsonl").read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(content)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(content[:cut])
        with AnswerStore(path) as store:
            assert len(store) == 3 and store.get("none") is None
            store.put("none", ANSWERS["none"])
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"{}", b"\xff", b'{"key": "a", "said": "", "run": ""}',
             b'{"key": "a", "value": "1", "said": "", "run": ""}', b'{"key": 1, "value": 1, "said": "", "run": ""}'],
)  # fmt: skip
def test_other_damage_is_an_error(line, tmp_path):
    path = filled(tmp_path / "answers.jsonl")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(UserError, match="is damaged in line 2") as caught:
        AnswerStore(path)
    assert "remove that line: its question is asked again" in str(caught.value)
    path.write_bytes(b"\n".join(lines))  # the fix
    assert len(AnswerStore(path)) == 4


def test_an_answer_is_in_the_file_at_once_and_on_the_disk_in_groups(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("reward_models.judges.answer_store.os.fsync", synced.append)
    store = AnswerStore(tmp_path / "answers.jsonl")
    for number in range(GROUP + 1):
        store.put(f"k{number}", Answer(0.5))
        assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == number + 1
    assert len(synced) == 1
    store.close()
    store.close()
    assert len(synced) == 2


def test_threads_share_a_store(tmp_path):
    with AnswerStore(tmp_path / "answers.jsonl") as store:
        ways = [
            threading.Thread(target=lambda: [store.put(f"k{number}", Answer(number)) for number in range(50)])
            for _ in range(4)
        ]
        for one in ways:
            one.start()
        for one in ways:
            one.join()
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted(line["key"] for line in lines) == sorted(f"k{number}" for number in range(50))


def test_answers_of_other_runs_are_free(tmp_path):
    path = filled(tmp_path / "answers.jsonl", run="first")
    with AnswerStore(path, "second") as store:
        store.put("new", Answer(0.5))
        assert store.free("k0") and not store.free("new") and not store.free("unknown")


def test_a_key_depends_on_all_that_changes_the_answer():
    keys = {
        answer_key(*parts)
        for parts in (
            ({"model": "a"}, "q", {}),
            ({"model": "b"}, "q", {}),
            ({"model": "a"}, "r", {}),
            ({"model": "a"}, "q", {"x": 1}),
        )
    }
    assert len(keys) == 4 and answer_key({"a": 1, "b": 2}, "q", {}) == answer_key({"b": 2, "a": 1}, "q", {})


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        AnswerStore(tmp_path / "file" / "answers.jsonl")
