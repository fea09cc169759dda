"""Seconds from a command to its answer, as a whole process: of verbs and refusals that need no model.

Judge by the processor's seconds (user and system): on a busy machine the clock shows the other work. Without --run, a
quick run of recipes/tiny is made first, whose data `align check` then finds in the cache.

    python benchmarks/startup.py [--run RUN_DIR] [--repeats 3] [--quick]

Two cores of an Intel Xeon, quiet, 2026-11-30, one repeat (--quick), seconds of processor: help 0.11, wrong key or
missing file 0.52 to 0.66, compare 1.12, report 1.84, info 0.36: within their targets. check recipes/tiny 19.8, and
15.8 in a second process of the same cache: its target of 8 is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from alignment.pipeline.records.environment import hardware

ROOT = Path(__file__).resolve().parents[1]


def commands(run: Path) -> dict[str, tuple[list[str], float]]:
    """Name -> the arguments of a command, and the target in processor seconds."""
    evals = [str(run / "evals" / f"{stage}-tinyworld-chat") for stage in ("sft", "dpo")]
    return {
        "run --help": (["run", "--help"], 1),
        "compare --help": (["compare", "--help"], 1),
        "run, a wrong key": (["run", "recipes/tiny", "--sft.learning_rat", "1"], 1),
        "run, a missing data file": (["run", "recipes/tiny", "--sft.dataset_name", "nowhere.jsonl"], 1),
        "sft, a missing recipe": (["sft", "recipes/tiny/nowhere.yaml"], 1),
        "check, a wrong key": (["check", "recipes/tiny/sft.yaml", "--learning_rat", "1"], 1),
        "compare": (["compare", *evals], 2),
        "report": (["report", str(run)], 2),
        "info": (["info", str(run)], 2),
        "check recipes/tiny": (["check", "recipes/tiny"], 8),
    }


def align(arguments: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds of processor and of the clock."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "align.py"), *arguments],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1, 2):
        raise SystemExit(f"align {' '.join(arguments)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run directory of recipes/tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="smoke run: every command once")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        run = args.run.resolve() if args.run else Path(folder) / "run"
        if not args.run:
            align(["run", "recipes/tiny", "--quick", "--output_dir", str(run)])
        figures, targets = {}, {}
        print(f"{'':28}{'cpu s':>8}{'wall s':>8}{'target':>8}")
        for name, (arguments, target) in commands(run).items():
            times = [align(arguments) for _ in range(1 if args.quick else args.repeats)]
            cpu, wall = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{name:28}{cpu:8.2f}{wall:8.2f}{target:8.1f}", flush=True)
            figures[name], targets[name] = {"cpu": round(cpu, 2), "wall": round(wall, 2)}, target
    met = {name: figures[name]["cpu"] <= target for name, target in targets.items()}
    print(json.dumps({"figures": figures, "targets": targets, "met": met, "machine": hardware()}))


if __name__ == "__main__":
    main()
