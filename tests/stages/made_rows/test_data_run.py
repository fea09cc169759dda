"""Rows made part by part: killed and resumed, damaged, of uneven columns; without a model."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import prepare
from alignment.durable.manifest import damage
from alignment.errors import UserError
from alignment.stages.made_rows.data_run import SHARD_ROWS, DataRun, DataStageKeys, shards
from alignment.stages.made_rows.made_parts import Part, Parts
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.saving import rows_of_stages

ITEMS = list(range(10))


class Killed(BaseException):
    """In place of a signal: nothing may catch it."""


def row(number: int) -> dict:
    said = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "\u2028 \x85 yes\n"}]
    return {"messages": said, "score": None if number < 4 else number / 8}


def make(start: int, some) -> Part:
    """A row for every item that is not divisible by three."""
    rows = [row(number) for number in some if number % 3]
    left_out = [{"number": number, "left_out": "divisible"} for number in some if not number % 3]
    counts = {"items": len(some), **({"left out": len(left_out)} if left_out else {})}
    return Part(rows, left_out, counts, tokens=7 * len(some))


def run(folder: Path, make=make, items=ITEMS, size: int = 4) -> StageResult:
    stage = DataRun("sample", DataStageKeys(str(folder), rows_per_part=size))
    stage.make(items, make, "items")
    return stage.finish({"model_name_or_path": "org/model"}, DataArguments("items"), "sft")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def killed_at(part: int):
    """A `make` that dies in a part."""

    def dying(start: int, some) -> Part:
        if start == 4 * part:
            raise Killed
        return make(start, some)

    return dying


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "sample"
    run(folder)
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [
        row for file in sorted(folder.glob("data/*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()
    ]


def test_rows_and_their_account(whole):
    assert rows_of(whole) == [row(number) for number in ITEMS if number % 3]
    account = json.loads((whole / "data/account.json").read_text())
    assert account == {
        "read": 10, "rows": 6, "kind": "sft", "counts": {"items": 10, "left out": 4}, "tokens": 70,
    }  # fmt: skip
    assert [json.loads(line)["number"] for line in (whole / "data/left_out.jsonl").open()] == [0, 3, 6, 9]
    assert damage(whole / "data") == [] and not (whole / "parts").exists()
    stage = json.loads((whole / "stage.json").read_text())
    assert stage["metrics"] == {key: account[key] for key in ("rows", "read", "kind", "counts")}
    assert stage["checkpoint"] == "sample/data" and stage["parents"] == {"model_name_or_path": "org/model"}


@pytest.mark.parametrize("parts", [(0,), (1,), (2,), (0, 1, 2)])
def test_killed_and_resumed_the_files_are_the_same_to_the_byte(whole, tmp_path, parts):
    folder = tmp_path / "sample"
    for part in parts:
        with pytest.raises(Killed):
            run(folder, killed_at(part))
        assert not (folder / "data").exists()
    made = []
    run(folder, lambda start, some: made.append(start) or make(start, some))
    assert made == [start for start in (0, 4, 8) if start >= 4 * max(parts)]  # nothing twice
    assert files_of(folder) == files_of(whole)
    told = [json.loads((one / "stage.json").read_text()) for one in (folder, whole)]
    assert all(told[0][key] == told[1][key] for key in ("metrics", "tokens", "parents"))


@pytest.mark.parametrize("name", ["write_shards", "write_data_card"])
def test_killed_while_the_parts_are_put_together(whole, tmp_path, monkeypatch, name):
    folder = tmp_path / "sample"
    with monkeypatch.context() as patch:
        patch.setattr(f"alignment.stages.made_rows.data_run.{name}", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder)
    run(folder, killed_at(0))  # makes nothing
    assert files_of(folder) == files_of(whole)


def test_killed_before_its_result_is_written(whole, tmp_path, monkeypatch):
    folder = tmp_path / "sample"
    with monkeypatch.context() as patch:
        patch.setattr(StageResult, "write", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder)
    assert (folder / "data").is_dir() and (folder / "parts").is_dir()
    run(folder, killed_at(0))
    assert files_of(folder) == files_of(whole)


def test_the_size_of_parts_does_not_matter(whole, tmp_path):
    for size in (1, 3, 100):
        run(tmp_path / str(size), size=size)
        assert rows_of(tmp_path / str(size)) == rows_of(whole)
        assert (tmp_path / f"{size}/data/left_out.jsonl").read_bytes() == (whole / "data/left_out.jsonl").read_bytes()


DAMAGES = {
    "empty": lambda content: b"",
    "cut in a line": lambda content: content[: len(content) // 2],
    "no account": lambda content: b"[1]\n",
    "another account": lambda content: b'{"rows": 1, "colour": 2}\n{}\n',
    "not UTF-8": lambda content: content.replace(b"question", b"\xff\xfe"),
    "a row less": lambda content: b"\n".join(content.split(b"\n")[:-2]) + b"\n",
    "a row more": lambda content: content + b"{}\n",
    "no row but a number": lambda content: content.replace(content.split(b"\n")[1], b"3"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_an_error_that_names_it_and_is_made_again(whole, tmp_path, damage):
    folder = tmp_path / "sample"
    with pytest.raises(Killed):
        run(folder, killed_at(2))
    file = folder / "parts/000001.jsonl"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(UserError, match=r"parts/000001.jsonl is damaged") as caught:
        run(folder)
    assert "delete it" in caught.value.fix
    file.unlink()
    run(folder)
    assert files_of(folder) == files_of(whole)


def test_a_file_of_a_killed_write_is_no_part(tmp_path):
    (tmp_path / "000000.jsonl.77.partial").write_text("{")
    parts = Parts(tmp_path)
    assert not parts.has(0) and list(tmp_path.iterdir()) == []


def columns(folder: Path) -> dict[str, str]:
    schema = pyarrow.parquet.read_schema(folder / "data/train-00000.parquet")
    return {name: str(schema.field(name).type) for name in schema.names}


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (None, 0.5, "double"), (None, 3, "int64"), (1, 0.5, "double"), (None, "a", "string"), (None, True, "bool"),
        ([], [1.5], "list<element: double>"), ([], [{"a": 1}], "list<element: struct<a: int64>>"),
        ([{"a": 1}], [{"a": 1.5, "b": "x"}], "list<element: struct<a: double, b: string>>"),
        ({"a": None}, {"a": 2.5}, "struct<a: double>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("swapped", [False, True])
def test_parts_whose_columns_have_other_types_become_one_table(tmp_path, first, second, kind, swapped):
    values = [second, first] if swapped else [first, second]
    run(tmp_path, lambda start, some: Part([{"value": values[start]}]), [0, 1], size=1)
    assert columns(tmp_path)["value"] == kind
    found = [row["value"] for row in rows_of(tmp_path)]
    assert len(found) == 2 and str(found[values.index(second)]).startswith(str(second)[:3])


def test_a_column_that_only_later_rows_have_is_kept(tmp_path):
    rows = [[{"a": 1}, {"a": 2, "late": "x"}], [{"later": 3}]]
    run(tmp_path, lambda start, some: Part(rows[start]), [0, 1], size=1)
    assert rows_of(tmp_path) == [
        {"a": 1, "late": None, "later": None}, {"a": 2, "late": "x", "later": None},
        {"a": None, "late": None, "later": 3},
    ]  # fmt: skip


def test_types_that_do_not_fit_are_a_users_error(tmp_path):
    values = ["text", 1.5]
    for size in (1, 2):
        with pytest.raises(UserError, match="the rows do not fit one table"):
            run(tmp_path / str(size), lambda start, some: Part([{"value": values[n]} for n in some]), [0, 1], size=size)
        assert not (tmp_path / f"{size}/data").exists()


def test_no_row_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(UserError, match="the stage sample made no row") as caught:
        run(tmp_path / "sample", lambda start, some: Part([], counts={"left out: too long": len(some)}))
    assert caught.value.got == "left out: too long: 10"
    assert not (tmp_path / "sample/data").exists() and not (tmp_path / "sample/stage.json").exists()


def test_a_stage_without_rows_starts_afresh_and_keeps_what_was_left_out(whole, tmp_path):
    folder = tmp_path / "sample"
    lost = [{"number": 1, "left_out": "dull"}]
    with pytest.raises(UserError, match="made no row") as caught:
        run(folder, lambda start, some: Part([], lost if start == 4 else []))
    assert f"{folder / 'left_out.jsonl'} has each row" in caught.value.fix
    assert json.loads((folder / "left_out.jsonl").read_text()) == lost[0]
    made = []
    run(folder, lambda start, some: made.append(start) or make(start, some))
    assert made == [0, 4, 8] and files_of(folder) == files_of(whole)
    assert not (folder / "left_out.jsonl").exists()


def test_no_item_is_an_error(tmp_path):
    with pytest.raises(UserError, match="made no row"):
        run(tmp_path / "sample", items=[])


def test_parts_without_rows_leave_no_trace(tmp_path):
    run(tmp_path, lambda start, some: Part([row(number) for number in some if number > 7]))
    assert [one["score"] for one in rows_of(tmp_path)] == [1.0, 1.125]


def test_shards_are_full_but_the_last():
    parts = (Part([{"n": 1}] * 4_000) for _ in range(6))
    assert [len(rows) for rows in shards(parts)] == [SHARD_ROWS, SHARD_ROWS, 4_000]


def test_a_stage_reads_the_rows_and_only_the_rows(whole):
    prepared = prepare(DataArguments(str(whole / "data"), eval_share=0), "sft", 0)
    assert len(prepared.splits["train"]) == 6


def test_no_rows_per_part():
    with pytest.raises(UserError, match="rows_per_part leaves no rows"):
        DataStageKeys("x", rows_per_part=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take(seed):
    with pytest.raises(UserError, match="seed is out of range"):
        DataStageKeys("x", seed=seed)


def test_rows_of_a_stage_are_its_parents(whole, tmp_path):
    mixture = [{"name": "items.jsonl"}, {"name": str(whole / "data")}]
    stage = DataRun("sample", DataStageKeys(str(tmp_path / "again")))
    stage.make(ITEMS, make, "items")
    result = stage.finish({"model_name_or_path": None}, DataArguments(datasets=mixture), "sft")
    assert result.parents == {"datasets.1.name": "sample"} and result.parent is None
    assert rows_of_stages(DataArguments(str(whole / "data"))) == {"dataset_name": str(whole / "data")}
