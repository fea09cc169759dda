"""The wheel: it holds every file of the packages and the recipes, and works in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from alignment.pipeline.records.environment import code_digest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("alignment", "reward_models", "eval")
WHAT_IT_IS = ("align.py", "setup.py", "pyproject.toml", "README.md", "LICENSE")
# In one process: each starts with the imports of the last. A wrong key is found without the libraries that train.
COMMANDS = """
import sys, align
codes = [align.main(["--help"]), align.main(["init", "mine", "--from", "tiny"])]
codes += [align.main(["run", name, "--sft.learning_rat", "1"]) for name in ("tiny", "mine", "recipes/tiny-lora")]
codes += [align.main(["recipe", "sft", "learning_rate"])]
light = "torch" not in sys.modules
from alignment.pipeline.records.environment import code_digest
print(align.__file__, codes, light, code_digest())
"""


def files(folder: Path, inside: str = "") -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{inside}{path.relative_to(folder).as_posix()}" for path in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the tree: what an earlier build left in build/ would be taken into it."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in WHAT_IT_IS:
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(place)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return next(place.glob("*.whl"))


def test_the_wheel_holds_the_tree(wheel):
    expected = {"align.py"} | {f"{name}/{file}" for name in PACKAGES for file in files(ROOT / name)}
    expected |= files(ROOT / "recipes", "alignment/recipes/")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", target, wheel], check=True, capture_output=True)
    return target


def environment(installed: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}


def test_the_installed_wheel_has_recipes_in_an_empty_folder(installed, tmp_path):
    for folder in (installed / "alignment/recipes").rglob("*"):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    command = [sys.executable, "-P", "-c", COMMANDS]
    done = subprocess.run(command, cwd=tmp_path, env=environment(installed), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{installed}/align.py [0, 0, 2, 2, 2, 0] True {code_digest()}", done.stderr
    assert done.stderr.count("did you mean 'learning_rate'?") == 3
    assert f"tiny: the packaged recipe {installed}/alignment/recipes/tiny\n" in done.stderr
    assert "mine: the packaged" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_the_installed_wheel_runs(installed, tmp_path):
    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "align", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment(installed), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "6 stages checked: 0 errors" in run("check", "tiny", "--offline")
    run("run", "tiny", "--quick")
    assert (tmp_path / "runs/tiny/report.html").is_file()
    assert run("run", "recipes/tiny", "--quick").count("up to date") >= 6
    run("init", "mine", "--from", "tiny-lora")
    assert "0 errors" in run("check", "mine", "--offline")
    assert run("sft", "tiny/sft.yaml", "--quick", "--dry-run").count("up to date") == 1
    assert "versions" in run("doctor").lower()
    rows = [json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n" for n in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(rows[:40]))
    (tmp_path / "held-out.jsonl").write_text("".join(rows[40:]))
    model, tuned = "runs/tiny/pretrain/checkpoint", "runs/mine/sft/checkpoint"
    own = ("--model", model, "--data", "train.jsonl", "--output_dir", "runs/mine/sft")
    run("sft", *own, "--lora", "--max_steps", "3")
    compared = run("compare", model, tuned, "--suite", "held-out.jsonl", "--format", "chat", "--chat_template", tuned)
    assert "exact_match" in compared and "verdict" in compared
