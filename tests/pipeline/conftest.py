"""A recipe folder of fake stages in an empty working directory, and a fake evaluation harness."""

import gc
import json
from pathlib import Path

import pytest
import yaml

from alignment.errors import UserError
from alignment.pipeline.graph import load_pipeline
from alignment.pipeline.runner import run_pipeline

RECIPES = {
    "words": {},
    "base": {"tokenizer": "words"},
    "tuned": {"model_name_or_path": "base"},
    "judge": {"model_name_or_path": "tuned"},
    "aligned": {"model_name_or_path": "tuned", "reward_model_path": "judge"},
}


class FakeHarness:
    """A harness with a single suite, which lists the evaluations that were run."""

    def __init__(self):
        self.runs = []
        self.version = "1"

    def options(self):
        return ["limit", "seed"]

    def formats(self, suite):
        if suite != "facts":
            raise UserError("No such eval suite.", got=suite, expected="facts")
        return ("plain", "chat")

    def name(self, suite):
        return suite

    def digest(self, suite, format, options):
        return self.version

    def load(self, checkpoint):
        return Path(checkpoint, "weights.json").read_text()

    def evaluate(self, checkpoint, suite, format, output_dir, *, stage, parent, variant, loaded, seed, limit=None):
        self.runs.append((stage, parent, suite, format))
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"stage": stage, "weights": loaded, "limit": limit}))


class Project:
    """A recipe folder of fake stages, with methods to change and run it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.run_dir = Path("runs/fake")
        self.harness = FakeHarness()
        folder.mkdir()
        stages = {name: f"{name}.yaml" for name in RECIPES}
        self.settings = {"name": "fake", "seed": 3, "stages": stages}
        self.write("pipeline", self.settings)
        for name, recipe in RECIPES.items():
            self.write(name, recipe)

    def write(self, name: str, content: dict) -> None:
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def set(self, **settings) -> None:
        self.settings |= settings
        self.write("pipeline", self.settings)

    def load(self, *overrides: str, **options):
        return load_pipeline(self.folder, overrides, package="fake_stages", **options)

    def run(self, *overrides: str, seed=None, **options) -> list[str]:
        """Run, and return the stages that did work."""
        before = len(self.ran())
        run_pipeline(self.load(*overrides, seed=seed), harness=self.harness, **options)
        return self.ran()[before:]

    def ran(self) -> list[str]:
        log = self.run_dir / "ran.txt"
        return log.read_text().split() if log.exists() else []

    def record(self) -> dict:
        return json.loads((self.run_dir / "pipeline.json").read_text())


@pytest.fixture(scope="session", autouse=True)
def quick_collection():
    """Exclude the libraries' objects from the garbage collection after each stage, which they would slow down."""
    import torch  # noqa: F401

    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path / "recipes")
