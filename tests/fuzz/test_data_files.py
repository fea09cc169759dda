"""Data files of any content, encoding and name: rows that are all accounted for, or a refusal."""

import csv
import gzip
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzzing import SCALARS, TEXTS, VALUES, fuzz, outcome
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import prepare
from alignment.data.reading.formats import FORMATS, READ_COLUMNS

ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt", "User", "tool", "", None, 1, ["user"]])
CONTENTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["Say one.", "yes", "", None, 3, True, [{"type": "text", "text": "hi"}], [{"type": "image"}], {}]),
)
TURNS = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content}, ROLES, CONTENTS),
    st.builds(lambda role, content: {"from": role, "value": content}, ROLES, CONTENTS),
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), VALUES, max_size=3),
    SCALARS,
)
GOOD_TURNS = st.just([{"role": "user", "content": "Say one."}, {"role": "assistant", "content": "one"}])
CELLS = st.one_of(
    st.sampled_from(["Say one.", "yes", "no", "\n\nHuman: hi\n\nAssistant: yes"]),
    GOOD_TURNS,
    st.lists(TURNS, max_size=4),
    GOOD_TURNS.map(json.dumps),
    VALUES,
)
COLUMNS = st.one_of(
    st.sampled_from(sorted(READ_COLUMNS)),
    st.sampled_from(["context", "completions", "id", "margin", "prompts", "source", "a.b", "history"]),
    TEXTS,
)


@st.composite
def tables(draw, kind: str) -> list[dict]:
    """Rows, most of a recognised format of the kind, a few with other columns or other values."""
    columns = list(draw(st.sampled_from(sorted(FORMATS[kind]))))
    columns += draw(st.lists(COLUMNS, max_size=2, unique=True))
    shared = st.fixed_dictionaries(dict.fromkeys(columns, CELLS))
    rows = draw(st.lists(st.one_of(shared, shared, st.dictionaries(COLUMNS, CELLS, max_size=3)), max_size=5))
    return rows * draw(st.sampled_from([1, 1, 1, 4]))


def as_csv(rows: list[dict], delimiter: str) -> str:
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, delimiter=delimiter, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({str(name): cell if isinstance(cell, str) else json.dumps(cell) for name, cell in row.items()})
    return stream.getvalue()


SHAPES = {
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    ".json": json.dumps,
    ".csv": lambda rows: as_csv(rows, ","),
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".txt": lambda rows: "\n\n".join(map(str, rows)),
    ".md": lambda rows: "\n\n".join(map(str, rows)),
}


@st.composite
def files(draw, kind: str) -> tuple[str, bytes]:
    """The name and the bytes of a file; some are cut, zipped, of another encoding, or have bytes in the middle."""
    extension = draw(st.sampled_from(sorted(SHAPES)))
    shape = SHAPES[extension] if draw(st.integers(0, 5)) else SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    text = shape(draw(tables(kind)))
    encoding = draw(st.sampled_from(["utf-8"] * 5 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"]))
    content = text.encode(encoding, errors="replace")
    damage = draw(st.sampled_from(["none"] * 6 + ["cut", "bytes", "newlines", "empty"]))
    if damage == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif damage == "bytes":
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.binary(max_size=6)) + content[place:]
    elif damage == "newlines":
        content = content.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n"])))
    elif damage == "empty":
        content = draw(st.sampled_from([b"", b"\n", b"[]", b"{}", b"null", b"0"]))
    if draw(st.integers(0, 9)) == 0:
        extension += ".gz"
        content = gzip.compress(content)
    return draw(st.sampled_from(["rows", "my rows", "train", "[1]", ".rows", "日本"])) + extension, content


def check_file(kind: str, name: str, content: bytes, options: dict) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        file = Path(folder, name)
        file.write_bytes(content)
        try:
            args = outcome(lambda: DataArguments(dataset_name=str(file), **options))
        except TypeError as error:  # recipes are read by their types before
            pytest.fail(f"{options}: {error}")
        prepared = args and outcome(lambda: prepare(args, kind, seed=0))
        if not prepared:
            return
        for account in prepared.report.accounts:
            assert account.adds_up, account
        assert prepared.report.rows("train") == len(prepared.splits["train"]) > 0
        for row in prepared.splits["train"]:
            check_row(row, kind)


def check_row(row: dict, kind: str) -> None:
    """What any stage may rely on: text is text, and a conversation has its turns."""
    if kind == "text":
        assert isinstance(row["text"], str)
    for column in {"messages", "prompt", "chosen", "rejected", "completion"} & set(row):
        assert row[column], f"no turn in {column}"
        for turn in row[column]:
            assert turn["role"] in ("system", "user", "assistant") and isinstance(turn["content"], str)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "eval_share": st.sampled_from([0, 0.05, 0.5]),
        "deduplicate": st.sampled_from(["none", "exact", "near"]),
        "min_characters": st.sampled_from([1, 5]),
        "max_train_samples": st.sampled_from([1, 3]),
        "columns": st.dictionaries(st.sampled_from(["a.b", "id", "text", "prompt"]), COLUMNS, max_size=2),
    },
)
CASES = st.sampled_from(sorted(FORMATS)).flatmap(
    lambda kind: st.tuples(st.just(kind), files(kind), OPTIONS),
)


@fuzz(150)
@given(CASES)
def test_every_row_of_a_file_is_accounted_for_or_the_file_is_refused(case):
    kind, (name, content), options = case
    check_file(kind, name, content, options)


@pytest.mark.slow
@fuzz(5000)
@given(CASES)
def test_every_row_of_many_files_is_accounted_for_or_the_file_is_refused(case):
    kind, (name, content), options = case
    check_file(kind, name, content, options)
