"""Whole pipelines of real stages: checkpoints that load, a report of the public shape, nothing run twice."""

import json
import re
import subprocess
import sys
from shutil import copytree

import pytest
import torch
from align_cli import REPOSITORY, align

STAGES = ["tokenizer", "pretrain", "sft", "reward", "dpo", "ppo"]


def test_the_report_has_the_public_shape(quick_run):
    report = json.loads((quick_run / "report.json").read_text())
    assert list(report["stages"]) == STAGES
    for stage in report["stages"].values():
        assert {"checkpoint", "parent", "method", "seconds", "peak_memory_gb", "trainable_parameters"} <= set(stage)
        assert {"tokens", "metrics"} <= set(stage)
        assert (quick_run / stage["checkpoint"]).is_dir()
    evaluated = {(row["stage"], row["format"]) for row in report["evals"] if row["metric"] == "exact_match"}
    assert evaluated >= {(stage, form) for stage in ("pretrain", "sft", "dpo", "ppo") for form in ("plain", "chat")}
    compared = {(row["a"], row["b"]) for row in report["comparisons"]}
    assert compared >= {("pretrain", "sft"), ("sft", "dpo"), ("sft", "ppo"), ("pretrain", "dpo"), ("pretrain", "ppo")}
    assert report["samples"] and set(report["samples"][0]["outputs"]) >= {"pretrain", "sft", "dpo", "ppo"}
    assert (quick_run / "report.html").stat().st_size > 10_000


def test_every_model_loads_with_the_plain_auto_classes(quick_run):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    import alignment  # noqa: F401

    for stage in ("pretrain", "sft", "dpo", "ppo"):
        model = AutoModelForCausalLM.from_pretrained(quick_run / stage / "checkpoint")
        assert type(model).__name__ == "GPTForCausalLM"
    assert AutoModelForSequenceClassification.from_pretrained(quick_run / "reward/checkpoint").num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(quick_run / "ppo/checkpoint")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_chat_models_stop_at_the_end_of_a_turn(quick_run):
    tokens = json.loads((quick_run / "sft/checkpoint/tokenizer.json").read_text())["added_tokens"]
    end = next(token["id"] for token in tokens if token["content"] == "<|end|>")
    for stage in ("sft", "dpo", "ppo"):
        config = json.loads((quick_run / stage / "checkpoint/generation_config.json").read_text())
        assert end in config["eos_token_id"], stage


def test_every_stage_logs_and_has_a_card(quick_run):
    for stage in STAGES[1:]:
        lines = (quick_run / stage / "metrics.jsonl").read_text().splitlines()
        assert lines and all("step" in json.loads(line) for line in lines)
        assert "library_name" in (quick_run / stage / "checkpoint/README.md").read_text()


@pytest.mark.parametrize("run", ["quick_run", "quick_lora_run"])
def test_every_checkpoint_is_intact_and_holds_no_pickle(run, request, workplace):
    folder = request.getfixturevalue(run)
    verified = align("info", folder, "--verify", cwd=workplace)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count(": intact, ") == len(list(folder.glob("*/checkpoint"))) >= 4
    files = [path for path in folder.glob("*/checkpoint/*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert not [path for path in folder.rglob("*") if path.name.endswith((".partial", ".replaced"))]


def test_the_reward_card_counts_its_pairs(quick_run):
    card = json.loads((quick_run / "reward/stage.json").read_text())["metrics"]["pairwise"]
    assert sum(part["n"] for part in card["by_gap"]) == card["n"] > 100
    assert 0 <= card["accuracy"] <= 1 and card["length_baseline"] >= 0.5


def test_unchanged_stages_are_skipped_and_changed_ones_rerun_with_their_children(quick_run, workplace):
    # Other tests may have changed recipes in this run directory.
    assert align("run", "recipes/tiny", "--quick", cwd=workplace).returncode == 0
    before = (quick_run / "ppo/stage.json").read_text()
    again = align("run", "recipes/tiny", "--quick", cwd=workplace)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("up to date, skipped (recipe and parents unchanged)") == len(STAGES)
    assert (quick_run / "ppo/stage.json").read_text() == before
    plan = align("run", "recipes/tiny", "--quick", "--reward.learning_rate", "2e-3", "--dry-run", cwd=workplace).stdout
    runs = [line.split()[0] for line in plan.splitlines() if "  run (" in line]
    assert runs == ["reward", "ppo"]


@pytest.mark.parametrize("run", ["quick_run", "quick_lora_run"])
def test_the_cards_lines_load_the_model(run, request, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    cards = sorted(request.getfixturevalue(run).glob("*/checkpoint/README.md"))
    assert len(cards) >= 4
    for card in cards:
        (lines,) = re.findall(r"```python\n(.*?)```", card.read_text(), flags=re.DOTALL)
        namespace = {}
        exec(lines, namespace)
        logits = namespace["model"](torch.tensor([[5, 6, 7]])).logits
        assert logits.shape == ((1, 1) if card.parts[-3] == "reward" else (1, 3, logits.shape[-1])), card


@pytest.mark.slow
def test_the_benchmark_of_rewards_runs(quick_run):
    command = [
        sys.executable,
        "benchmarks/ppo_reward.py",
        "--quick",
        "--methods",
        "ppo",
        "rloo",
        "--run_dir",
        quick_run,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["figures"]) == {"ppo 0", "rloo 0 0.0001"} and len(result["targets"]) == 4


@pytest.mark.slow
def test_the_benchmark_of_ensembles_runs(quick_run):
    command = [sys.executable, "benchmarks/ensemble_overoptimisation.py", "--quick", "--run_dir", quick_run]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["figures"]) == {"single 0", "ensemble 0", "ensemble - single"}


def test_adapters_train_a_tenth_and_their_children_find_base_and_adapter(quick_lora_run):
    from peft import AutoPeftModelForCausalLM

    import alignment  # noqa: F401

    for stage in ("sft", "reward", "dpo", "ppo"):
        made = json.loads((quick_lora_run / stage / "stage.json").read_text())
        assert 0 < made["trainable_parameters"] <= 0.1 * made["total_parameters"], stage
        assert (quick_lora_run / stage / "checkpoint/adapter_model.safetensors").is_file()
        assert not (quick_lora_run / stage / "checkpoint/model.safetensors").exists()
    for stage in ("sft", "dpo", "ppo"):
        AutoPeftModelForCausalLM.from_pretrained(quick_lora_run / stage / "checkpoint")


def test_a_merged_adapter_answers_as_the_adapter_does(quick_lora_run):
    import torch

    from alignment.models.loading import load_causal_lm, load_trainable

    checkpoint = quick_lora_run / "dpo/checkpoint"
    merged, tokenizer = load_causal_lm(checkpoint)
    adapter = load_trainable(checkpoint, "causal-lm").eval()
    ids = tokenizer("Where does Mira live?", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(merged(**ids).logits, adapter(**ids).logits, atol=1e-4, rtol=1e-4)
        plain = load_trainable(quick_lora_run.parent / "tiny/pretrain/checkpoint", "causal-lm").eval()
        assert (plain(**ids).logits - adapter(**ids).logits).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sft", "recipes/tiny/sft.yaml", "--dataset_name", "missing.jsonl"], ["missing.jsonl", "no file", "fix"]),
        (["sft", "recipes/tiny/sft.yaml", "--learning_rat", "1"], ["learning_rat", "learning_rate"]),
        (["sft", "recipes/tiny/sft.yaml", "--dataset_name", "odd.jsonl"], ["foo", "columns", "fix"]),
        (["sft", "recipes/tiny/sft.yaml", "--dataset_name", "empty.jsonl"], ["empty.jsonl", "empty"]),
        (["sft", "recipes/tiny/sft.yaml", "--model_name_or_path", "runs/nowhere"], ["runs/nowhere", "fix"]),
        (["sft", "recipes/tiny/sft.yaml", "--model_name_or_path", "reward"], ["sequence-classification", "causal-lm"]),
        (["dpo", "recipes/tiny/dpo.yaml", "--model_name_or_path", "./bare"], ["./bare", "no chat template", "fix"]),
        (["ppo", "recipes/tiny/ppo.yaml", "--reward_funcs", "[nowhere.py:brief]"], ["nowhere.py", "expected"]),
        (["eval", "runs/nowhere", "--suite", "tinyworld"], ["runs/nowhere", "expected"]),
        (["chat", "runs/nowhere", "--prompt", "hello"], ["runs/nowhere", "fix"]),
    ],
)
def test_mistakes_are_explained_on_one_screen_and_cost_nothing(arguments, words, quick_run, workplace):
    (workplace / "odd.jsonl").write_text('{"foo": 1, "bar": 2}\n')
    (workplace / "empty.jsonl").write_text("")
    copytree(quick_run / "sft/checkpoint", workplace / "bare", dirs_exist_ok=True)
    for name in ("chat_template.jinja", "manifest.json", "lineage.json"):
        (workplace / "bare" / name).unlink(missing_ok=True)
    before = [(quick_run / stage / "stage.json").read_text() for stage in ("sft", "dpo", "ppo")]
    failed = align(*arguments, cwd=workplace)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    assert len(failed.stderr.splitlines()) < 25, failed.stderr
    assert not [word for word in words if word.lower() not in failed.stderr.lower()], failed.stderr
    assert [(quick_run / stage / "stage.json").read_text() for stage in ("sft", "dpo", "ppo")] == before


def test_bench_measures_a_stage_and_leaves_nothing_behind(quick_run, workplace):
    before = (quick_run / "ppo/stage.json").read_text()
    done = align("bench", "recipes/tiny/ppo.yaml", "--steps", 1, "--rows", 64, "--json", cwd=workplace)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tokens_per_second"] == found["tokens_per_step"] / found["step_seconds"]
    assert all(found["split"][part] > 0 for part in ("data", "forward", "backward", "optimizer", "other"))
    assert found["utilisation"] is None  # PPO does more than train on its tokens
    assert (quick_run / "ppo/stage.json").read_text() == before
