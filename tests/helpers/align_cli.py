"""The console script as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def align(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run the console script where `recipes` is beside it, as a user would."""
    command = [sys.executable, str(REPOSITORY / "align.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
