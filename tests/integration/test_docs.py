"""The commands in README and docs, run as they stand: the long ones as smoke runs, in full when slow."""

import json
import os
import re
import subprocess
import sys

import pytest
from align_cli import REPOSITORY, write_launcher

PAGES = [
    "README.md",
    "docs/recipes.md",
    "docs/your-own-data.md",
    "docs/checks.md",
    "docs/your-own-reward.md",
    "docs/your-own-suite.md",
    "docs/sampling.md",
    "docs/comparing.md",
    "docs/ppo.md",
    "docs/grpo.md",
    "docs/kto.md",
    "docs/tinyworld.md",
    "docs/model.md",
    "docs/interop.md",
    "docs/performance.md",
    "docs/lora.md",
    "docs/reliability.md",
]
# Set-up is what continuous integration does; the own-file pipeline has a test of its own, with files to read; the
# frontier too, for it needs more steps than a smoke run logs.
ELSEWHERE = ("make demo", "make test", "align run recipes/local-files", "align frontier", "align check recipes/lora")
LONG = ("run", "tokenizer", "pretrain", "sft", "reward", "dpo", "kto", "ppo", "grpo")


def blocks(page: str) -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [block for block in found if not block.startswith(ELSEWHERE)]


def as_smoke_run(block: str) -> str:
    """The block with --quick after every stage or pipeline, and its two items a task for every evaluation.

    After two steps hardly any reply ends, so truncated replies are kept.
    """
    block = block.replace("--best-of", "--keep_truncated --best-of").replace(
        "--pairs --n", "--keep_truncated --pairs --n"
    )
    lines = []
    for line in block.splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["align"] and words[1] in LONG:
            line = line.replace(f"align {words[1]}", f"align {words[1]} --quick", 1)
        if words[:2] == ["align", "eval"]:
            line = line.replace("align eval", "align eval --limit 2", 1)
        lines.append(line)
    return "\n".join(lines)


def run_block(block: str, folder) -> subprocess.CompletedProcess:
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    write_launcher(bin_folder)
    path = f"{bin_folder}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    command = ["bash", "-euo", "pipefail", "-c", block]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


CASES = [(page, number) for page in PAGES for number in range(len(blocks(page)))]


@pytest.mark.parametrize(("page", "number"), CASES)
def test_commands_run(page, number, quick_run, workplace):
    done = run_block(as_smoke_run(blocks(page)[number]), workplace)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_demo_in_full(workplace):
    """`align run recipes/tiny`, and what the README promises of it."""
    done = run_block("align run recipes/tiny --output_dir runs/full", workplace)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((workplace / "runs/full/report.json").read_text())
    value = {
        (row["stage"], row["format"]): row["value"]
        for row in report["evals"]
        if row["suite"] == "tinyworld" and row["task"] == "tinyworld" and not row.get("num_fewshot")
    }
    assert value["sft", "chat"] >= value["pretrain", "chat"] + 0.40
    card = report["stages"]["reward"]["metrics"]["pairwise"]
    assert card["accuracy"] >= max(0.80, card["length_baseline"] + 0.10)
    gains = {
        row["b"]: row["ci_low"]
        for row in report["comparisons"]
        if row["a"] == "sft" and row["metric"] == "gold_reward" and row["format"] == "chat"
    }
    assert gains["dpo"] > 0 and gains["ppo"] > 0


def test_pages_on_bringing_ones_own_are_short():
    for page in PAGES[1:]:
        for block in blocks(page):
            assert len(block.splitlines()) <= 20, page
