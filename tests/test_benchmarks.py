"""Each benchmark runs: its smoke run ends with one JSON object of figures, targets and machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_smoke_runs(path):
    ran = subprocess.run([sys.executable, str(path), "--quick"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    assert {"figures", "targets", "met", "machine"} <= set(result)
