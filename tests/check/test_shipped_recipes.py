"""A warning of `align check` is something to act on: the shipped recipes give none."""

import json
from pathlib import Path

import pytest
from align_cli import REPOSITORY
from check_cases import foreign_tokenizer, write_model

from alignment.check.findings import NOTE
from alignment.check.material import Options
from alignment.check.run import check_stages, merged
from alignment.pipeline.graph import Pipeline, load_pipeline, load_stage

WORDS = ["cats", "sat", "on", "a", "mat", "and", "saw", "one", "of", "two", "birds", "fly", "by", "our", "old", "house"]
# Documents and pairs, which repeat least, are fewer than the recipe's; conversations and prompts are as many.
FEWER = ["--tokenizer.dataset_name", "tinyworld:pretrain?documents=500"]
FEWER += ["--pretrain.dataset_name", "tinyworld:pretrain?documents=2000"]
FEWER += [f"--{stage}.dataset_name=tinyworld:preference?pairs=700" for stage in ("reward", "dpo")]

INPUTS = {
    "local-files": ["text", "instructions", "preferences"],
    "shakespeare-char": ["text"],
    "lora-1gpu": ["model", "math", "instructions", "preferences"],
}


@pytest.fixture
def at_root(tmp_path, monkeypatch) -> Path:
    """A working directory with the recipes."""
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own_files(at_root) -> dict[str, str]:
    """Input -> a file or model of the kind that the recipes ask for."""
    lines = [" ".join(WORDS[(number * step) % 16] for step in range(3, 15)) + f" {number}" for number in range(600)]
    (at_root / "book.txt").write_text("\n\n".join(". ".join(lines[start : start + 20]) for start in range(0, 600, 20)))
    rows = {
        "math": ({"question": f"{line}?", "answer": f"#### {number}"} for number, line in enumerate(lines)),
        "tasks": ({"instruction": f"Tell me: {line}.", "output": "It is so."} for line in lines),
        "pairs": ({"prompt": f"{line}?", "chosen": "It is so.", "rejected": "No."} for line in lines),
    }
    for name, made in rows.items():
        (at_root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    write_model(at_root / "model", foreign_tokenizer(template=None), max_position_embeddings=2048)
    files = {"text": "book.txt", "math": "math.jsonl", "instructions": "tasks.jsonl", "preferences": "pairs.jsonl"}
    return files | {"model": "model"}


def not_noted(pipeline: Pipeline, sample: int = 20, whole: bool = True) -> list[str]:
    """The warnings and errors of a pipeline's stages."""
    checks = check_stages(pipeline, options=Options(sample=sample, offline=True, whole=whole))
    assert all(check.material for check in checks), merged(checks)
    return [f"{found.stage}: {found.what} ({found.got})" for found in merged(checks) if found.severity != NOTE]


def test_the_demo_gives_none(at_root):
    assert not not_noted(load_pipeline("recipes/tiny", FEWER, mistakes={}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-lora"])
def test_the_demo_gives_none_in_all_its_rows(name, at_root):
    assert not not_noted(load_pipeline(f"recipes/{name}", mistakes={}), sample=1000)


@pytest.mark.parametrize("stage", ["kto", "grpo"])
def test_stages_beside_the_demo_give_none(stage, at_root):
    assert not not_noted(load_stage(stage, f"recipes/tiny/{stage}.yaml", mistakes={}), whole=False)


@pytest.mark.parametrize("name", ["local-files", "shakespeare-char", "lora-1gpu"])
def test_recipes_for_own_files_give_none(name, own_files):
    """qlora-1gpu is lora-1gpu on a base in 4 bit, which this machine may not load."""
    inputs = [word for key in INPUTS[name] for word in (f"--{key}", own_files[key])]
    assert not not_noted(load_pipeline(f"recipes/{name}", inputs, mistakes={}))
