"""Reading recipes, overriding their keys, and building the dataclasses."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from alignment.errors import UserError, UserErrors
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.recipes.overrides import apply_overrides
from alignment.pipeline.recipes.recipe import placeholders, read_recipe
from alignment.pipeline.records.digest import data_digests
from alignment.yaml_text import parse_yaml, write_yaml


@dataclass
class Training:
    output_dir: str
    learning_rate: float = 2e-5
    max_steps: int = -1
    bf16: bool = False
    report_to: str | list[str] | None = None
    targets: list[str] | None = None
    kind: Literal["linear", "cosine"] = "linear"
    nested: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        if self.max_steps == 0:
            raise ValueError("max_steps must not be 0")


@dataclass
class Model:
    layers: int = 2
    seed: int = 1

    def __post_init__(self):
        if self.layers < 1:
            raise UserError("too few layers", got=self.layers)


def build(**recipe):
    return build_configs((Training, Model), {"output_dir": "x"} | recipe, "a.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("3e-4", 0.0003), ("1E5", 1e5), ("1.5", 1.5), (".5", 0.5), ("-2.", -2.0), ("+1e3", 1000.0),
        ("7", 7), ("-7", -7), ("1_000", 1000), ("010", "010"), ("0x1f", 31), ("true", True), ("False", False),
        ("no", "no"), ("off", "off"), ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("null", None), ("", None),
        ("1e3x", "1e3x"), ("e5", "e5"), ("[1e-3, b]", [0.001, "b"]),
        ("on", "on"), ("yes", "yes"), ("=", "="), ("-012", "-012"), ("0", 0), ("~", None), ("'1e-3'", "1e-3"),
    ],
)  # fmt: skip
def test_scalars(text, value):
    parsed = parse_yaml(text, "text")
    assert parsed == value and type(parsed) is type(value)


def test_an_empty_file_is_an_empty_recipe(tmp_path):
    (tmp_path / "a.yaml").write_text("# no key is set\n")
    assert read_recipe(tmp_path / "a.yaml") == {}


def test_values_are_written_as_they_are_read():
    for value in (0.001, "1e-3", ["q", "v" * 200], True, None, "no", {"a": [1]}):
        assert parse_yaml(write_yaml(value), "text") == value


def test_infinity():
    assert parse_yaml("-.inf", "text") == -math.inf


def test_a_recipe_extends_another_and_mappings_merge(tmp_path):
    (tmp_path / "base.yaml").write_text("a: 1\nb: {c: 1, d: 2}\nlist: [1]\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/child.yaml").write_text("extends: ../base.yaml\nb: {d: 3}\nlist: [2]\n")
    assert read_recipe(tmp_path / "sub/child.yaml") == {"a": 1, "b": {"c": 1, "d": 3}, "list": [2]}


def test_a_cycle_of_extends_is_an_error(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: ./a.yaml\n")
    with pytest.raises(UserError, match=r"extends itself(?s:.*)b\.yaml -> "):
        read_recipe(tmp_path / "a.yaml")


def test_inputs_are_filled_in_and_keep_their_type(tmp_path):
    (tmp_path / "a.yaml").write_text("n: ${count}\npath: ${folder}/train.jsonl\nlist: ['${count}']\nother: $count\n")
    recipe = read_recipe(tmp_path / "a.yaml", {"count": 3, "folder": "data"})
    assert recipe == {"n": 3, "path": "data/train.jsonl", "list": [3], "other": "$count"}
    assert placeholders(read_recipe(tmp_path / "a.yaml")) == {"count", "folder"}
    with pytest.raises(UserError, match="folder"):
        read_recipe(tmp_path / "a.yaml", {"count": 3})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: [1\n", "line 3, column 1"),
        ("a: 1\nb: c: 2\n", "line 2, column 5"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r'line 4, column 3(?s:.*)duplicate key "c"'),
        ("- a\n", "not a recipe"),
        ("just text", "not a recipe"),
        ("a: +_\n", "not valid YAML"),
        ("a: *b\n", "line 1, column 4(?s:.*)undefined alias"),
        ("a: !!python/name:os.system x\n", "not valid YAML"),
    ],
)
def test_bad_yaml(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        read_recipe(tmp_path / "a.yaml")


def test_merge_keys_are_not_duplicates(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &base {x: 1, y: 1}\nchild: {<<: *base, x: 2}\nagain: {<<: *base}\n")
    assert read_recipe(tmp_path / "a.yaml")["child"] == {"x": 2, "y": 1}


def test_a_missing_file_suggests_a_similar_one(tmp_path):
    (tmp_path / "reward.yaml").write_text("")
    with pytest.raises(UserError, match=r"did you mean .*reward\.yaml"):
        read_recipe(tmp_path / "rewards.yaml")
    with pytest.raises(UserError, match="a folder"):
        read_recipe(tmp_path)


def test_overrides():
    recipe = {"a": 1, "nested": {"x": 1, "y": 2}}
    arguments = ["--learning_rate", "1e-3", "--nested.x", "5", "--new.deep=[1, b]", "--bf16", "--a", "-2"]
    changed = apply_overrides(recipe, arguments)
    assert changed == {
        "a": -2,
        "nested": {"x": 5, "y": 2},
        "learning_rate": 0.001,
        "new": {"deep": [1, "b"]},
        "bf16": True,
    }
    assert recipe == {"a": 1, "nested": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("arguments", "says"), [(["loose"], "loose"), (["--a", "[1"], "--a"), (["--a.b", "1"], "not a mapping")]
)
def test_bad_overrides(arguments, says):
    with pytest.raises(UserError, match=says):
        apply_overrides({"a": 1}, arguments)


def test_a_key_of_several_dataclasses_is_passed_to_each():
    training, model = build(learning_rate=1, report_to=["tensorboard"], seed=7, layers=3, kind="cosine", targets=["q"])
    assert (training.seed, model.seed, model.layers, training.learning_rate) == (7, 7, 3, 1)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown key 'learning_rat'(?s:.*)did you mean 'learning_rate'"):
        build(learning_rat=1)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("learning_rate", "fast", r"'fast' \(text\)(?s:.*)a number(?s:.*)learning_rate: 2"),
        ("max_steps", 1.5, "a whole number"),
        ("max_steps", True, "a whole number"),
        ("bf16", "no", "true or false"),
        ("report_to", 3, "text, or a list of text, or null"),
        ("targets", "q", r"targets: \[q\]"),
        ("targets", [1], "a list of text"),
        ("kind", "square", "one of linear, cosine"),
        ("seed", None, "a whole number"),
        ("nested", 3, "a mapping"),
    ],
)
def test_a_wrong_type_says_got_expected_and_fix(key, value, says):
    with pytest.raises(UserError, match=says) as caught:
        build(**{key: value})
    assert not isinstance(caught.value, UserErrors)


def test_all_mistakes_are_reported_together():
    with pytest.raises(UserErrors) as caught:
        build_configs((Training, Model), {"laers": 1, "bf16": 1, "seed": "one", "nest": 1}, "a.yaml")
    text = str(caught.value)
    assert len(caught.value.errors) == 5
    assert all(part in text for part in ("laers", "bf16", "seed", "nest", "'output_dir' is missing"))


def test_errors_of_the_dataclasses_are_user_errors():
    with pytest.raises(UserErrors) as caught:
        build(max_steps=0, layers=0)
    assert "a.yaml: max_steps cannot take this value: max_steps must not be 0" in str(caught.value)
    assert "max_steps: 0 (a whole number)" in str(caught.value)
    assert "too few layers" in str(caught.value)


def test_the_digest_covers_every_source_of_a_mixture(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text('{"text": "one"}\n')
    recipe = {"datasets": [{"name": str(tmp_path / "a")}, {"name": str(tmp_path / "b")}, {"name": "tinyworld:sft"}]}
    before = data_digests(recipe)
    assert set(before) == {source["name"] for source in recipe["datasets"]}
    (tmp_path / "b/rows.jsonl").write_text('{"text": "two"}\n')
    after = data_digests(recipe)
    assert [name for name in before if before[name] != after[name]] == [str(tmp_path / "b")]
