"""`import alignment` makes the GPT known to the Auto classes, in whatever order transformers is imported."""

import importlib
import importlib.util
import os
import subprocess
import sys

import pytest
from gpt_tiny import MODERN, build

from alignment import registration


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library and an architecture in place of transformers and the GPT: modules that note when they are imported."""
    (tmp_path / "slow_library.py").write_text("noted = ['library']\nimport slow_half\n")
    (tmp_path / "slow_half.py").write_text("import slow_library\n")
    (tmp_path / "new_shape.py").write_text("import slow_library\nslow_library.noted.append('shape')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registration, "LIBRARY", "slow_library")
    monkeypatch.setattr(registration, "ARCHITECTURE", "new_shape")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    yield "slow_library"
    for name in ("slow_library", "slow_half", "new_shape"):
        sys.modules.pop(name, None)


def test_the_architecture_is_imported_right_after_the_library(library):
    finders = len(sys.meta_path)
    registration.register()
    registration.register()
    assert len(sys.meta_path) == finders + 1 and "new_shape" not in sys.modules
    spec = importlib.util.find_spec(library)  # only asks whether it is installed
    assert spec.loader.get_source(library).startswith("noted") and library not in sys.modules
    assert importlib.import_module(library).noted == ["library", "shape"]
    assert len(sys.meta_path) == finders


def test_an_imported_library_is_registered_with_at_once(library):
    noted = importlib.import_module(library).noted
    assert noted == ["library"]
    registration.register()
    assert noted == ["library", "shape"]


def test_the_architecture_may_be_imported_first(library):
    registration.register()
    importlib.import_module("new_shape")
    assert importlib.import_module(library).noted == ["library", "shape"]


def test_a_library_that_is_not_installed_is_not_found(library, tmp_path):
    (tmp_path / "slow_library.py").unlink()
    importlib.invalidate_caches()
    registration.register()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(library)


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import alignment",
        "from transformers import AutoModelForCausalLM; import alignment.errors",
        "import alignment; from transformers.modeling_layers import GradientCheckpointingLayer",
        "import alignment; from transformers.models.auto.configuration_auto import AutoConfig",
        "import alignment.models.gpt.configuration_gpt",
        "import alignment, peft",
        "import alignment, trl",
        "import alignment, lm_eval.models.huggingface",
    ],
)
def test_a_checkpoint_loads_with_the_plain_auto_class_after_any_imports(imports, tmp_path):
    build(MODERN).save_pretrained(tmp_path)
    load = f"from transformers import AutoModelForCausalLM as A; print(type(A.from_pretrained({str(tmp_path)!r})))"
    command = [sys.executable, "-c", f"{imports}\n{load}"]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert "modeling_gpt.GPTForCausalLM" in ran.stdout, ran.stderr
