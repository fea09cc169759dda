"""Data files as real programs and people leave them: the rows are right, or the message names what is wrong.

`CASES` holds, for each case, the files of a folder, the name that is loaded, and either its rows or what the UserError
says. Both splits of a folder are read where the case has rows for them.
"""

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import zipfile

import pytest

from alignment.data.reading import arrow_cache
from alignment.data.reading.sources import load_source
from alignment.errors import UserError

TWO = [{"question": "é1", "answer": "a, b"}, {"question": "q2", "answer": 'say "x"; y'}]
ONE, OTHER = [TWO[0]], [TWO[1]]


def jsonl(rows=TWO):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(separator, rows=(("say 1", "yes 1"), ("say 2", "yes 2")), header=("question", "answer")):
    return "".join(separator.join(row) + "\n" for row in (header, *rows)).encode()


def pairs(*rows):
    return [dict(zip(("question", "answer"), row, strict=True)) for row in rows]


def parquet(rows=TWO):
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def arrow(rows=TWO):
    import pyarrow

    sink = io.BytesIO()
    rows = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def zipped(data):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("rows.jsonl", data)
    return sink.getvalue()


SAID = pairs(("say 1", "yes 1"), ("say 2", "yes 2"))
COMMAS = table(",")

# Which files are rows: name -> (files, what is loaded, rows or message).
FOLDERS = {
    "a notebook's checkpoints": ({"a.jsonl": jsonl(), ".ipynb_checkpoints/a-checkpoint.jsonl": jsonl()}, "", TWO),
    "macOS's forks": ({"a.jsonl": jsonl(), "._a.jsonl": b"\x00\x05\x16\x07", "__MACOSX/a.jsonl": b"\x00"}, "", TWO),
    "Finder and Explorer": ({"a.jsonl": jsonl(), ".DS_Store": b"\x00\x00\x00\x01Bud1", "Thumbs.db": b"\xd0"}, "", TWO),
    "editors' copies": (
        {"a.csv": COMMAS, "a.csv~": b"x", "#a.csv#": b"x", ".a.csv.swp": b"b0VIM", "~$a.csv": b"\x05"},
        "",
        SAID,
    ),
    "copies that keep the extension": (
        {"a.txt": b"a", ".#a.txt": b"b", ".~lock.a.txt": b"b", ".a.swp.txt": b"b"},
        "",
        [{"text": "a"}],
    ),
    "old copies": ({"a.jsonl": jsonl(), "a.jsonl.bak": jsonl(), "a.jsonl.orig": b"x", "a.jsonl.tmp": b"x"}, "", TWO),
    "version control": ({"a.jsonl": jsonl(), ".git/b.jsonl": jsonl(), ".cache/huggingface/c.jsonl": jsonl()}, "", TWO),
    "a hidden folder that is named": ({".data/a.jsonl": jsonl(), ".data/.b.jsonl": b"x"}, ".data", TWO),
    "a hidden file that is named": ({".a.jsonl": jsonl()}, ".a.jsonl", TWO),
    "a glob of hidden files": ({".a.jsonl": jsonl(), "b.jsonl": b"x"}, ".*.jsonl", TWO),
    "a glob in a hidden folder": ({".data/a.jsonl": jsonl()}, ".data/*.jsonl", TWO),
    "only hidden files": ({".a.jsonl": jsonl()}, "", r"contains no data(?s:.*)\.a\.jsonl"),
    "metadata of an older data set": ({"a.jsonl": jsonl(), "dataset_infos.json": b"{}"}, "", TWO),
    "extensions in capitals": ({"A.JSONL": jsonl(ONE), "B.Jsonl": jsonl(OTHER)}, "", TWO),
    "an extension in capitals": ({"A.CSV.GZ": gzip.compress(COMMAS)}, "A.CSV.GZ", SAID),
    "newline-delimited JSON": ({"a.ndjson": jsonl()}, "a.ndjson", TWO),
    "splits in capitals": ({"Train.jsonl": jsonl(ONE), "TEST.jsonl": jsonl(OTHER)}, "", {"train": ONE, "test": OTHER}),
    "splits after a name": (
        {"gsm8k_train.jsonl": jsonl(ONE), "gsm8k-test.jsonl": jsonl(OTHER)},
        "",
        {"train": ONE, "test": OTHER},
    ),
    "val": ({"train.jsonl": jsonl(ONE), "val.jsonl": jsonl(OTHER)}, "", {"train": ONE, "val": OTHER}),
    "training and testing": (
        {"training.jsonl": jsonl(ONE), "testing.jsonl": jsonl(OTHER)},
        "",
        {"train": ONE, "test": OTHER},
    ),
    "eval": ({"train.jsonl": jsonl(ONE), "eval.jsonl": jsonl(OTHER)}, "", {"train": ONE, "eval": OTHER}),
    "no training file": (
        {"data.jsonl": jsonl(ONE), "test.jsonl": jsonl(OTHER)},
        "",
        r"no split train(?s:.*)data\.jsonl",
    ),
    "words that are no split": ({"human-eval.jsonl": jsonl(ONE), "latest.jsonl": jsonl(OTHER)}, "", TWO),
    "shards of named splits": (
        {
            "data/train_sft-00000-of-00001.jsonl": jsonl(ONE),
            "data/test_sft-00000-of-00001.jsonl": jsonl(OTHER),
        },
        "",
        {"train_sft": ONE, "test_sft": OTHER, "train": ONE},
    ),
    "two splits that are called train": (
        {"train_sft-00000-of-00001.jsonl": jsonl(ONE), "train_gen-00000-of-00001.jsonl": jsonl(OTHER)},
        "",
        r"several(?s:.*)train_gen, train_sft(?s:.*)dataset_train_split",
    ),
    "a file beside its link": ({"a.jsonl": jsonl(), "latest.jsonl": "a.jsonl"}, "", TWO),
    "a linked folder": ({"rows/a.jsonl": jsonl(), "data/train": "../rows"}, "data", TWO),
    "a link to the folder itself": ({"data/a.jsonl": jsonl(), "data/again": "../data"}, "data", TWO),
    "a link to nothing": (
        {"a.jsonl": jsonl(), "b.jsonl": "gone.jsonl"},
        "",
        r"b\.jsonl is a link to(?s:.*)gone\.jsonl",
    ),
    "a link to itself": ({"a.jsonl": "a.jsonl"}, "a.jsonl", r"a\.jsonl is a link to"),
    "empty files": ({"a.jsonl": b"", "b.jsonl": b"\n\n"}, "", r"is empty"),
    "an empty file of several": ({"a.csv": b"", "b.csv": COMMAS}, "", SAID),
    "a header without rows": ({"a.csv": table(",", ()), "b.csv": COMMAS}, "", SAID),
    "glob signs in the name": ({"a[1].jsonl": jsonl(), "a1.jsonl": b"x"}, "a[1].jsonl", TWO),
    "glob signs in the folder": ({"a [x]*/b?.jsonl": jsonl()}, "a [x]*/b?.jsonl", TWO),
    "spaces and other letters": ({"my däta 数/a b.jsonl": jsonl()}, "my däta 数", TWO),
    "a glob that matches only folders": ({"data/x/a.jsonl": jsonl()}, "data/*", r"only folders(?s:.*)/\*\*/"),
    "an unknown compression in the folder": (
        {"a.jsonl.zst": b"\x28\xb5\x2f\xfd", "b.docx": b"PK"},
        "",
        r"contains no data(?s:.*)a\.jsonl\.zst",
    ),
    "a name with a null byte": ({"a.jsonl": jsonl()}, "b\0.jsonl", r"There is no file"),
    "a name that is too long": ({"a.jsonl": jsonl()}, "b" * 300 + ".jsonl", r"There is no file"),
}

# How bytes become text.
ENCODINGS = {
    f"{name} of {kind}": ({file: encoded(text)}, file, rows)
    for kind, file, text, rows in [
        ("CSV", "a.csv", COMMAS.decode(), SAID),
        ("JSON lines", "a.jsonl", jsonl().decode(), TWO),
        ("JSON", "a.json", json.dumps(TWO, indent=1), TWO),
        ("text", "a.txt", "é\n\nb", [{"text": "é\n\nb"}]),
    ]
    for name, encoded in {
        "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
        "UTF-16": lambda text: text.encode("utf-16"),
        "UTF-16 with the other mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
        "UTF-32": lambda text: text.encode("utf-32"),
        "UTF-16 in gzip": lambda text: gzip.compress(text.encode("utf-16")),
        "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    }.items()
} | {
    "half of UTF-16": ({"a.csv": "question,answer\né,b\n".encode("utf-16")[:-1]}, "a.csv", r"a\.csv(?s:.*)UTF-16"),
    "gzip without .gz": ({"a.jsonl": gzip.compress(jsonl())}, "a.jsonl", TWO),
    "text called .gz": ({"a.jsonl.gz": jsonl()}, "a.jsonl.gz", TWO),
    "gzip twice": ({"a.csv.gz": gzip.compress(gzip.compress(COMMAS))}, "a.csv.gz", r"gzip(?s:.*)gunzip"),
    "Windows-1252": (
        {"a.csv": "text\n“café”\n".encode("cp1252")},
        "a.csv",
        r"not UTF-8 at line 2(?s:.*)“café”(?s:.*)iconv -f WINDOWS-1252",
    ),
    "Shift-JIS": ({"a.txt": "日本".encode("shift-jis")}, "a.txt", r"not UTF-8 at line 1"),
    "zip": ({"a.jsonl": zipped(jsonl())}, "a.jsonl", r"a\.jsonl is(?s:.*)zip archive(?s:.*)unpack"),
    "bzip2": ({"a.jsonl": bz2.compress(jsonl())}, "a.jsonl", r"a\.jsonl is(?s:.*)bzip2"),
    "xz called .gz": ({"a.jsonl.gz": lzma.compress(jsonl())}, "a.jsonl.gz", r"a\.jsonl\.gz is(?s:.*)xz"),
    "zstandard": ({"a.jsonl": b"\x28\xb5\x2f\xfd\x00\x00"}, "a.jsonl", r"a\.jsonl is(?s:.*)zstandard"),
    "Parquet called .jsonl": ({"a.jsonl": parquet()}, "a.jsonl", TWO),
    "Parquet without an extension": ({"5f0e": parquet()}, "5f0e", TWO),
    "Arrow called .parquet": ({"a.parquet": arrow()}, "a.parquet", TWO),
    "JSON lines called .parquet": ({"a.parquet": jsonl()}, "a.parquet", r"\.parquet: it is not Parquet, but text"),
    "half of Parquet": ({"a.parquet": parquet()[:-20]}, "a.parquet", r"Cannot read .*a\.parquet"),
    "gzip called .parquet": ({"a.parquet": gzip.compress(parquet())}, "a.parquet", r"a\.parquet(?s:.*)gunzip"),
}

WRAPPED = json.dumps({"version": 1, "data": TWO}, indent=1).encode()
NESTED = b'{"text": ' + b"[" * 9999 + b"]" * 9999 + b"}\n"
COLUMNS_OF_ROWS = {"question": ["é1", "q2"], "answer": ["a, b", 'say "x"; y']}
LONG_NUMBERS = [{"text": "a", "n": 10**40}, {"text": "b", "n": [{"m": -(2**63) - 1}]}]
DIGITS = [{"text": "a", "n": str(10**40)}, {"text": "b", "n": [{"m": str(-(2**63) - 1)}]}]

# Layouts of JSON.
JSON_FILES = {
    "rows under one key": ({"a.json": WRAPPED}, "a.json", TWO),
    "rows under one key in one line": ({"a.jsonl": json.dumps({"data": TWO}).encode()}, "a.jsonl", TWO),
    "rows under two keys": (
        {"a.json": json.dumps({"train": ONE, "test": OTHER}).encode()},
        "a.json",
        r"test, train|train, test",
    ),
    "one column of numbers": ({"a.json": b'{"data": [1, 2]}'}, "a.json", [{"data": 1}, {"data": 2}]),
    "one row in one line": ({"a.json": jsonl(ONE)}, "a.json", ONE),
    "one row over several lines": ({"a.json": json.dumps(TWO[0], indent=1).encode()}, "a.json", ONE),
    "one conversation": (
        {"a.json": json.dumps({"messages": [{"role": "user", "content": "a"}], "tags": ["x"]}, indent=1).encode()},
        "a.json",
        [{"messages": [{"role": "user", "content": "a"}], "tags": ["x"]}],
    ),
    "rows over several lines": (
        {"a.jsonl": "\n".join(json.dumps(row, indent=1) for row in TWO).encode()},
        "a.jsonl",
        TWO,
    ),
    "rows in one line": ({"a.jsonl": jsonl().replace(b"}\n", b"}")}, "a.jsonl", TWO),
    "two rows in the second line": ({"a.jsonl": jsonl(ONE) + jsonl().replace(b"}\n", b"} ")}, "a.jsonl", [*ONE, *TWO]),
    "lines ended by carriage returns": ({"a.jsonl": jsonl().replace(b"\n", b"\r")}, "a.jsonl", TWO),
    "marks where files were joined": (
        {"a.jsonl": codecs.BOM_UTF8 + jsonl(ONE) + codecs.BOM_UTF8 + jsonl(OTHER)},
        "a.jsonl",
        TWO,
    ),
    "a list in .jsonl": ({"a.jsonl": json.dumps(TWO).encode()}, "a.jsonl", TWO),
    "lists in lines": (
        {"a.jsonl": b'["a", "b"]\n["c", "d"]\n'},
        "a.jsonl",
        r"(?s)^(?!.*not valid JSON).*other than an object",
    ),
    "columns": ({"a.json": json.dumps(COLUMNS_OF_ROWS).encode()}, "a.json", TWO),
    "columns over several lines": ({"a.json": json.dumps(COLUMNS_OF_ROWS, indent=2).encode()}, "a.json", TWO),
    "columns of different lengths": (
        {"a.json": b'{"question": ["a", "b"], "answer": ["c"]}'},
        "a.json",
        r"a\.json(?s:.*)question: 2(?s:.*)answer: 1",
    ),
    "pandas' columns": (
        {"a.json": json.dumps({name: dict(enumerate(values)) for name, values in COLUMNS_OF_ROWS.items()}).encode()},
        "a.json",
        TWO,
    ),
    "pandas' index": ({"a.json": json.dumps(dict(enumerate(TWO))).encode()}, "a.json", TWO),
    "pandas' split": (
        {
            "a.json": json.dumps(
                {"columns": list(TWO[0]), "index": [0, 1], "data": [list(row.values()) for row in TWO]}
            ).encode()
        },
        "a.json",
        TWO,
    ),
    "pandas' table": (
        {
            "a.json": json.dumps(
                {"schema": {"fields": [{"name": "question"}], "pandas_version": "1"}, "data": TWO}
            ).encode()
        },
        "a.json",
        TWO,
    ),
    "pandas' values": (
        {"a.json": json.dumps([list(row.values()) for row in TWO]).encode()},
        "a.json",
        r"other than an object at item 1",
    ),
    "rows by their names": ({"a.json": json.dumps({"x1": TWO[0], "x2": TWO[1]}, indent=1).encode()}, "a.json", TWO),
    "a comma after the last row": ({"a.json": b'[{"text": "a"},\n]'}, "a.json", r"comma"),
    "a comma after each line": ({"a.jsonl": jsonl().replace(b"}\n", b"},\n")}, "a.jsonl", r"comma(?s:.*)sed"),
    "Python's own notation": ({"a.jsonl": b"{'text': 'a', 'ok': True}\n"}, "a.jsonl", r"line 1(?s:.*)json\.dumps"),
    "the first of many lines is damaged": (
        {"a.jsonl": b'xt": "a"}\n' + jsonl()},
        "a.jsonl",
        r"not valid JSON at line 1",
    ),
    "the first of many lines is cut": ({"a.jsonl": b'{"text": "a\n' + jsonl()}, "a.jsonl", r"not valid JSON at line 1"),
    "no number and infinity": (
        {"a.jsonl": b'{"text": "a", "n": Infinity}\n{"text": "b", "n": -Infinity}\n'},
        "a.jsonl",
        [{"text": "a", "n": float("inf")}, {"text": "b", "n": -float("inf")}],
    ),
    "a name twice in one row": (
        {"a.jsonl": b'{"text": "a"}\n{"text": "b", "text": "c"}\n'},
        "a.jsonl",
        r"text(?s:.*)twice(?s:.*)line 2|line 2(?s:.*)text(?s:.*)twice",
    ),
    "a name twice in an inner object": (
        {"a.json": b'[{"m": [{"role": "a", "role": "b"}]}]'},
        "a.json",
        r"role(?s:.*)twice|twice(?s:.*)role",
    ),
    "numbers beyond 64 bits": ({"a.jsonl": jsonl(LONG_NUMBERS)}, "a.jsonl", DIGITS),
    "a number of 5000 digits": (
        {"a.jsonl": b'{"text": "a", "n": ' + b"9" * 5000 + b"}"},
        "a.jsonl",
        [{"text": "a", "n": "9" * 5000}],
    ),
    "nested too deeply": ({"a.jsonl": NESTED}, "a.jsonl", r"line 1(?s:.*)nested"),
    "nested deeply": (
        {"a.jsonl": b'{"text": "a", "n": ' + b"[" * 90 + b"]" * 90 + b"}\n"},
        "a.jsonl",
        [{"text": "a", "n": json.loads("[" * 90 + "]" * 90)}],
    ),
    "a null byte": ({"a.jsonl": b'{"text": "a"}\n\x00\x00\x00\x00\n'}, "a.jsonl", r"line 2(?s:.*)null byte"),
    "half a character": (
        {"a.jsonl": b'{"text": "a"}\n{"text": "\\udc00"}\n'},
        "a.jsonl",
        r"half a character at line 2",
    ),
    "objects without names": ({"a.jsonl": b"{}\n{}\n"}, "a.jsonl", r"empty"),
    "a column without a name": ({"a.jsonl": b'{"text": "a", "": 1}\n'}, "a.jsonl", [{"text": "a", "": 1}]),
    "null": ({"a.jsonl": b'{"text": "a"}\nnull\n'}, "a.jsonl", r"other than an object at line 2"),
}

QUOTED = table("\t", (('"Hi" she said 1', "yes 1"), ('She said "Hi"', 'yes "2"')))

# Dialects of CSV.
TABLES = {
    **{f"separated by {separator!r}": ({"a.csv": table(separator)}, "a.csv", SAID) for separator in ";\t|"},
    "semicolons beside commas in texts": (
        {"a.csv": table(";", (("well, 1", "yes, 1"), ("2", "no, no, no")), ("question, if any", "answer"))},
        "a.csv",
        [{"question, if any": "well, 1", "answer": "yes, 1"}, {"question, if any": "2", "answer": "no, no, no"}],
    ),
    "commas beside semicolons in texts": ({"a.csv": b'question,answer\n"a;b","c;d"\n'}, "a.csv", pairs(("a;b", "c;d"))),
    "one column with separators in its texts": (
        {"a.csv": b"text\na;b\nc|d;e\n"},
        "a.csv",
        [{"text": "a;b"}, {"text": "c|d;e"}],
    ),
    "commas called .tsv": ({"a.tsv": COMMAS}, "a.tsv", SAID),
    "tabs in gzip called .csv": ({"a.csv.gz": gzip.compress(table("\t"))}, "a.csv.gz", SAID),
    "quoted semicolons": ({"a.csv": b'"question";"answer"\n"a;\nb";"c"\n'}, "a.csv", pairs(("a;\nb", "c"))),
    "Excel's first line": ({"a.csv": b"sep=;\n" + table(";")}, "a.csv", SAID),
    "tabs without quoting": (
        {"a.tsv": QUOTED},
        "a.tsv",
        pairs(('"Hi" she said 1', "yes 1"), ('She said "Hi"', 'yes "2"')),
    ),
    "tabs and an open quote": (
        {"a.tsv": table("\t", (('"Hi', "1"), ("b", "2")))},
        "a.tsv",
        pairs(('"Hi', "1"), ("b", "2")),
    ),
    "tabs with quoting": ({"a.tsv": b'question\tanswer\n"a\tb"\t"c\n""d"""\n'}, "a.tsv", pairs(("a\tb", 'c\n"d"'))),
    "commas without quoting": ({"a.csv": table(",", (('"Hi" she said', "yes"),))}, "a.csv", r"line 2(?s:.*)quot"),
    "a quote that is never closed": ({"a.csv": table(",", (('"Hi', "yes"), ("b", "c")))}, "a.csv", r"quot"),
    "old line ends": ({"a.csv": COMMAS.replace(b"\n", b"\r")}, "a.csv", SAID),
    "pandas' index column": (
        {"a.csv": b",question,answer\n0,say 1,yes 1\n"},
        "a.csv",
        [{"Unnamed: 0": "0", "question": "say 1", "answer": "yes 1"}],
    ),
    "several columns without a name": (
        {"a.csv": b"question,,\na,b,c\n"},
        "a.csv",
        [{"question": "a", "Unnamed: 1": "b", "Unnamed: 2": "c"}],
    ),
    "a name twice": ({"a.csv": b"question,answer,answer\na,b,c\n"}, "a.csv", r"answer(?s:.*)distinct names"),
    "white space round the names": ({"a.csv": b"question , answer\na,b\n"}, "a.csv", pairs(("a", "b"))),
    "too many values": ({"a.csv": b"question,answer\na,b, c\n"}, "a.csv", r"line 2(?s:.*)3 values"),
    "too few values": ({"a.csv": b"question,answer\na,b\nc\n"}, "a.csv", r"line 3(?s:.*)1 value"),
    "nothing": ({"a.csv": b""}, "a.csv", r"is empty"),
    "only blank lines": ({"a.csv": b"\n\n"}, "a.csv", r"is empty"),
    "a null byte in a value": ({"a.csv": b"question,answer\na\x00,b\n"}, "a.csv", pairs(("a\0", "b"))),
}

CASES = {**FOLDERS, **ENCODINGS, **JSON_FILES, **TABLES}


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    """Keep rows in memory: test_files.py has those of the cache."""
    monkeypatch.setattr(arrow_cache, "cached_tables", lambda _key, tables: arrow_cache.tables_in_memory(tables))


@pytest.mark.parametrize("name", CASES)
def test_files_as_they_are_found(tmp_path, name):
    files, loaded, expected = CASES[name]
    for path, content in files.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.symlink_to(content)
    path = os.path.join(tmp_path, loaded) if loaded else str(tmp_path)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            load_source(path, kind="text")
        return
    for split, rows in (expected if isinstance(expected, dict) else {"train": expected}).items():
        found = load_source(path, kind="text", split=split).to_list()
        assert found == rows
        assert [[type(value) for value in row.values()] for row in found] == [
            [type(value) for value in row.values()] for row in rows
        ]


# Advice ---------------------------------------------------------------------------------------------------------------

COMMANDS = {
    "Windows-1252": ("a b.csv", "text\ncafé\n".encode("cp1252"), [{"text": "café"}]),
    "Windows-1252 in gzip": ("a.csv.gz", gzip.compress("text\ncafé\n".encode("cp1252")), [{"text": "café"}]),
    "commas after lines": ("a.jsonl", jsonl().replace(b"}\n", b"},\n"), TWO),
    "gzip twice": ("a.csv.gz", gzip.compress(gzip.compress(COMMAS)), SAID),
    "gzip called .parquet": ("a.parquet", gzip.compress(parquet()), TWO),
    "Parquet in gzip": ("a.parquet.gz", gzip.compress(parquet()), TWO),
    "bzip2": ("a.jsonl.bz2", bz2.compress(jsonl()), TWO),
    "xz": ("a.jsonl", lzma.compress(jsonl()), TWO),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_are_advised_work(tmp_path, name):
    file, data, rows = COMMANDS[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(UserError) as error:
        load_source(str(tmp_path / file), kind="text")
    command = re.search(r"(iconv|gunzip|bunzip2|unxz|sed|mv) .*", error.value.fix)[0]
    if not shutil.which(command.split()[0]):
        pytest.skip(f"no {command.split()[0]} here")
    before = set(tmp_path.iterdir())
    subprocess.run(["sh", "-c", command], check=True)
    made = sorted(set(tmp_path.iterdir()) - before) or [tmp_path / file]
    assert load_source(str(made[0]), kind="text").to_list() == rows


def test_the_glob_that_is_advised_works(tmp_path):
    folder = tmp_path / "rows [1]" / "deep"
    folder.mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl", "notes.txt"):
        (folder / name).write_bytes(jsonl(ONE))
    with pytest.raises(UserError, match="several kinds") as error:
        load_source(str(tmp_path / "rows [1]"), kind="text")
    pattern = re.search(r"'(.*)'", error.value.fix)[1]
    assert load_source(pattern, kind="text").to_list() == ONE * 2


# Columns of Parquet and Arrow ---------------------------------------------------------------------------------------


def arrow_columns():
    import pyarrow

    texts = ["a", "b", "a"]
    return {
        "dictionary": (pyarrow.array(texts).dictionary_encode(), texts),
        "large text": (pyarrow.array(texts, pyarrow.large_string()), texts),
        "view of text": (pyarrow.array(texts, pyarrow.string_view()), texts),
        "view of lists": (pyarrow.array([["a"], [], None], pyarrow.list_view(pyarrow.string())), [["a"], [], None]),
        "map": (
            pyarrow.array([[("a", 1)], [], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            [{"a": 1}, {}, None],
        ),
        "run ends": (pyarrow.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), ["a", "a", "b"]),
        "objects with dictionaries": (
            pyarrow.array(
                [[{"role": "user"}]] * 3,
                pyarrow.list_(pyarrow.struct({"role": pyarrow.dictionary(pyarrow.int32(), pyarrow.string())})),
            ),
            [[{"role": "user"}]] * 3,
        ),
    }


@pytest.mark.parametrize("name", arrow_columns())
def test_types_of_arrow(tmp_path, name):
    import pyarrow

    column, values = arrow_columns()[name]
    table = pyarrow.table({"text": ["a", "b", "c"], "x": column})
    with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    if name != "run ends":  # which Parquet does not have
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert load_source(str(tmp_path / "a.parquet"), kind="text")["x"][:] == values
    assert load_source(str(tmp_path / "a.arrow"), kind="text")["x"][:] == values


def test_columns_with_one_name(tmp_path):
    import pyarrow

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="Several columns have one name: text"):
        load_source(str(tmp_path / "a.arrow"), kind="text")


# Columns of JSON whose types show late ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 1000])
@pytest.mark.parametrize(
    "values",
    [[2**60 + 1, 0.5], [[2**60 + 1], [0.5]], [1, "x"], [None, {"a": None}, {"b": 1}], [[], [{"a": 1}], "x"]],
    ids=str,
)
def test_blocks_make_no_difference_to_columns(tmp_path, monkeypatch, values, batch):
    monkeypatch.setattr(arrow_cache, "BATCH_ROWS", batch)
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a", "x": value} for value in values]))
    found = load_source(str(tmp_path / "a.jsonl"), kind="text")["x"][:]
    assert repr(found) == repr(values)


# Damage -------------------------------------------------------------------------------------------------------------

SOUND = [
    ("a.jsonl", jsonl()),
    ("a.json", WRAPPED),
    ("a.json", json.dumps(COLUMNS_OF_ROWS).encode()),
    ("a.csv", b'question,answer\n"a, b",c\nd,"e\nf"\n'),
    ("a.tsv", QUOTED),
    ("a.txt", "é\n\nb".encode()),
    ("a.parquet", parquet()),
    ("a.arrow", arrow()),
]
PIECES = [
    *(bytes([byte]) for byte in b"\"',;\t|\n\r\0{}[]:\xe9"),
    b"null",
    b"NaN",
    b"9" * 30,
    b"\xff\xfe",
    b"\x1f\x8b",
    b"\\ud800",
]


def damaged(draw, data):
    """Bytes inserted, deleted, changed or copied at a few places; then perhaps in gzip or in another encoding."""
    for _ in range(draw.randint(1, 6)):
        first, last = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
        change = draw.choice(["insert", "delete", "copy", "replace"])
        inserted = {"insert": draw.choice(PIECES), "copy": data[first:last], "replace": draw.randbytes(1)}.get(
            change, b""
        )
        kept = {"delete": last, "replace": first + 1}.get(change, first)
        data = data[:first] + inserted + data[kept:]
    packed = draw.choice([lambda data: data] * 3 + [gzip.compress, lambda data: gzip.compress(data)[:-9]])
    return packed(data)


def read_damaged(folder, seed):
    draw = random.Random(seed)
    name, data = draw.choice(SOUND)
    path = folder / draw.choice([name, name, draw.choice(SOUND)[0]])
    path.write_bytes(damaged(draw, data))
    try:
        load_source(str(path), kind="text").to_list()
    except UserError:
        return
    finally:
        path.unlink()


def test_damaged_files_are_read_or_refused(tmp_path):
    for seed in range(150):
        read_damaged(tmp_path, seed)


@pytest.mark.slow
def test_many_damaged_files_are_read_or_refused(tmp_path):
    for seed in range(1000, 6000):
        read_damaged(tmp_path, seed)
