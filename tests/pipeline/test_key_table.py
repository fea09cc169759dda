"""The table of recipe keys: up to date, read like the dataclasses, and unused with other versions of the libraries."""

import dataclasses
from enum import Enum
from typing import Any, Literal

import pytest

from alignment.errors import UserError
from alignment.pipeline.recipes import key_table
from alignment.pipeline.recipes.keys import Keys, keys_of, keys_of_module
from alignment.pipeline.recipes.typecheck import describe, fits
from alignment.pipeline.stage_spec import STAGE_PACKAGE, stage_keys, stage_module
from alignment.stages import STAGES

VALUES = [None, True, 0, 3, 0.5, "text", "cosine", "steps", ["a"], [1], {"a": 1}, {"a": True}, {"a": "b"}, [{"a": 1}]]


def test_the_table_is_up_to_date():
    """Otherwise: python -m alignment.pipeline.recipes.key_table."""
    assert key_table.FILE.read_text(encoding="utf-8") == key_table.table_text()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_keys_and_messages_of_its_dataclasses(stage):
    listed, own = key_table.read(stage), keys_of_module(stage_module(stage))
    assert listed is not None
    assert (listed.names, dict(listed.parents), dict(listed.renamed)) == (own.names, dict(own.parents), own.renamed)
    for name in own.names:
        for value in VALUES:
            said = [[str(error) for error in keys.mistakes({name: value}, "a.yaml")] for keys in (listed, own)]
            assert said[0] == said[1]


class Speed(Enum):
    SLOW = "slow"
    FAST = "fast"


class Odd:
    pass


@pytest.mark.parametrize(
    "hint",
    [
        int, str | None, list[str], dict[str, Any] | None, dict | str, Literal["a b", False] | None, Speed, Speed | str,
        list[Speed], Odd | None, Any, tuple[int, ...],
    ],
)  # fmt: skip
def test_an_annotation_is_written_and_read_back(hint):
    back = key_table.hint_of(key_table.text_of(hint))
    assert describe(back) == describe(hint)
    assert [fits(value, back) for value in [*VALUES, "fast"]] == [fits(value, hint) for value in [*VALUES, "fast"]]


def stale(tmp_path, monkeypatch, old: str, new: str) -> None:
    """Replace the table by one whose first line differs, and that lacks the key learning_rate."""
    versions, *lines = key_table.FILE.read_text(encoding="utf-8").splitlines()
    assert old in versions
    kept = [versions.replace(old, new), *(line for line in lines if not line.startswith("learning_rate\t"))]
    (tmp_path / "table.tsv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    monkeypatch.setattr(key_table.read, "__defaults__", (tmp_path / "table.tsv",))


@pytest.mark.parametrize(("old", "new"), [("trl ", "trl 0"), ("transformers ", "transformers 1"), ("made", "")])
def test_a_table_of_other_versions_refuses_no_key(tmp_path, monkeypatch, old, new):
    stale(tmp_path, monkeypatch, old, new)
    assert key_table.read("sft") is None
    assert not stage_keys("sft").mistakes({"learning_rate": 0.1, "output_dir": "x"}, "sft.yaml")


def test_a_table_of_these_versions_counts(tmp_path, monkeypatch):
    stale(tmp_path, monkeypatch, "made", "made")
    assert [error.problem for error in stage_keys("sft").mistakes({"learning_rate": 0.1}, "sft.yaml")] == [
        "sft.yaml: unknown key 'learning_rate'"
    ]


@pytest.mark.parametrize("version", ["1.17.0.dev0", None])
def test_a_version_in_development_is_never_trusted(tmp_path, monkeypatch, version):
    def version_of(name):
        if version is None:
            raise key_table.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(key_table.metadata, "version", version_of)
    (tmp_path / "table.tsv").write_text(key_table.table_text(["tokenizer"]), encoding="utf-8")
    assert key_table.read("tokenizer", tmp_path / "table.tsv") is None


def test_stages_of_another_package_are_asked_themselves():
    assert stage_keys("words", "fake_stages").names < stage_keys("sft", STAGE_PACKAGE).names | {"fail", "options"}


def test_mistakes_are_listed_in_the_order_of_the_recipe():
    @dataclasses.dataclass
    class First:
        rate: float
        size: int = 1

    @dataclasses.dataclass
    class Second:
        size: str = "large"
        name: str = dataclasses.field(default="x")

    found = keys_of((First, Second)).mistakes({"name": 1, "nmae": 2, "size": "big"}, "a.yaml")
    assert [error.problem for error in found] == [
        "a.yaml: unknown key 'nmae'",
        "a.yaml: name cannot take this value",
        "a.yaml: size cannot take this value",
        "a.yaml: the key 'rate' is missing",
    ]
    assert all(isinstance(error, UserError) for error in found) and Keys(()).mistakes({}, "a.yaml") == []
