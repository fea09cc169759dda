"""Two processes train every stage as one does: one launch for all of them, beside one process that has all rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import process_steps
import pytest
from compared import assert_close
from safetensors.torch import load_file

HELPERS, ROOT = Path(process_steps.__file__).parent, Path(__file__).parents[2]


def launched(bases: Path, out: Path, processes: int) -> Path:
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    paths = {"PYTHONPATH": f"{HELPERS}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment = os.environ | paths | {"ACCELERATE_USE_CPU": "true"}
    program = [str(HELPERS / "process_steps.py"), str(bases), str(out)]
    ran = subprocess.run([*command, *program], capture_output=True, text=True, timeout=900, env=environment)
    assert ran.returncode == 0, ran.stderr[-6000:]
    return out


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[Path]:
    """What one process leaves, which also makes the models, and then what two do."""
    folder = tmp_path_factory.mktemp("processes")
    return [launched(folder, folder / str(processes), processes) for processes in (1, 2)]


@pytest.mark.parametrize("stage", process_steps.STAGES)
def test_two_processes_train_a_stage_as_one(stage, outcomes):
    one, two = (load_file(folder / f"{stage}.safetensors") for folder in outcomes)
    assert one.keys() == two.keys()
    for name, weights in one.items():
        assert_close(two[name], weights, name)
    logs, others = (json.loads((folder / f"{stage}.json").read_text()) for folder in outcomes)
    assert len(logs) == len(others) >= 2
    for line, other in zip(logs, others, strict=True):
        assert line.keys() == other.keys()
        for name, expected in line.items():
            assert_close([other[name]], [expected], name, 1e-4)
