"""Each benchmark imports, and its smoke run (slow) ends with one JSON object of figures, targets and machine."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
# The first two need a run's stages, and are tested with them in integration/test_quick_runs.py; the others have test
# files of their own, whose smoke runs serve several tests.
ELSEWHERE = {"ppo_reward", "ensemble_overoptimisation", "seeds", "feedback", "mutation"}
BENCHMARKS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ELSEWHERE)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_name_that_a_benchmark_imports_exists(path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    assert runpy.run_path(str(path), run_name="imported")["main"]


@pytest.mark.slow
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_smoke_runs(path):
    ran = subprocess.run([sys.executable, str(path), "--quick"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    assert {"figures", "targets", "met", "machine"} <= set(result)
