"""The commands in README and docs, run as they stand: the long ones as smoke runs, in full when slow."""

import json
import os
import re
import subprocess
import sys

import pytest
from align_cli import REPOSITORY, write_launcher

TUTORIALS = ["docs/tutorials/stages.md", "docs/tutorials/lora-on-your-files.md", "docs/tutorials/base-and-instruct.md"]
PAGES = [
    "README.md",
    "docs/index.md",
    "docs/recipes.md",
    "docs/your-own-data.md",
    "docs/checks.md",
    "docs/your-own-reward.md",
    "docs/reward-rules.md",
    "docs/your-own-suite.md",
    "docs/sampling.md",
    "docs/comparing.md",
    "docs/ppo.md",
    "docs/grpo.md",
    "docs/kto.md",
    "docs/ai-feedback.md",
    "docs/tinyworld.md",
    "docs/model.md",
    "docs/interop.md",
    "docs/performance.md",
    "docs/lora.md",
    "docs/checkpoints.md",
    "docs/doctor.md",
    "docs/serve.md",
    *TUTORIALS,
]
SLOW = {"docs/doctor.md", *TUTORIALS}  # each trains or evaluates models, or imports everything anew
# Set-up is what continuous integration does; the own-file pipeline has a test of its own, with files to read; the
# frontier too, for it needs more steps than a smoke run logs; the fixture runs the demo.
ELSEWHERE = (
    "make demo",
    "make test",
    "make install",
    "align run recipes/tiny\n",
    "align run recipes/local-files",
    "align frontier",
    "align check recipes/lora-1gpu --model MODEL",
    "align chat --web",  # tests/cli/test_chat_web.py
)
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


def cases() -> list:
    """Every block once, where it occurs first; those of SLOW pages are slow."""
    first: dict[str, tuple[str, int]] = {}
    for page in PAGES:
        for number, block in enumerate(blocks(page)):
            first.setdefault(block, (page, number))
    return [pytest.param(*place, marks=[pytest.mark.slow] * (place[0] in SLOW)) for place in first.values()]


@pytest.mark.parametrize(("page", "number"), cases())
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


def listed(page: str, heading: str = "") -> set[str]:
    """The names in the first column of a page's tables, from a heading on to the next of its level."""
    text = (REPOSITORY / "docs/reference" / page).read_text(encoding="utf-8")
    if heading:
        text = re.split(r"^(?:## |`\w+`:)", text.split(heading, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return {
        name for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)
    }


def test_every_metric_is_described(quick_run):
    """Also of stages that pages ran; of PPO docs/ppo.md has the metrics, which a test of its own compares."""
    known = listed("metrics.md")
    for file in quick_run.glob("*/metrics.jsonl"):
        logged = {name.removeprefix("eval_") for line in file.read_text().splitlines() for name in json.loads(line)}
        named = {re.sub(r"^rewards/[^/]+/(?=\w+$)", "rewards/NAME/", name) for name in logged}
        runtimes = {name for name in known if name.startswith("eval_")}
        own = named - known - {name.removeprefix("eval_") for name in runtimes}
        assert not own or file.parent.name.startswith("ppo"), (file.parent.name, own)


def test_every_key_of_the_report_is_described(quick_run):
    report = json.loads((quick_run / "report.json").read_text())
    assert report.keys() == listed("run-directory.md", "## report.json")
    for part in ("stages", "evals", "comparisons"):
        rows = report[part].values() if part == "stages" else report[part]
        assert {key for row in rows for key in row} == listed("run-directory.md", f"\n`{part}`:"), part


def test_every_key_of_a_stages_record_is_described(quick_run):
    files = list(quick_run.glob("*/stage.json"))
    assert {key for file in files for key in json.loads(file.read_text())} <= listed(
        "run-directory.md", "## stage.json"
    )
    data = [json.loads((file.parent / "data.json").read_text()) for file in files]
    assert {key for account in data for key in account} <= listed("run-directory.md", "## data.json")


def test_pages_on_bringing_ones_own_are_short():
    for page in PAGES[1:]:
        for block in blocks(page):
            assert len(block.splitlines()) <= 20, page
