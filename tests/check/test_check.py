"""`align check` on whole recipe folders: its output, that it writes nothing, and runs that it stops."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from align_cli import REPOSITORY
from check_cases import foreign_tokenizer, turn, write_model

import align as console
from alignment.check.display import GREEN, mark, show_findings, show_stage, summary
from alignment.check.findings import has_errors
from alignment.check.material import Options
from alignment.check.rows import check_labels
from alignment.check.run import check_stages, merged
from alignment.estimate.compute import Device
from alignment.pipeline.graph import load_pipeline
from alignment.tokenization.train import train_tokenizer

STAGES = ["tokenizer", "pretrain", "sft", "reward", "dpo", "ppo"]


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    return Path("recipes/tiny")


def files_of(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_rows_of_the_tiny_recipe_are_counted_and_nothing_is_written(tiny):
    pipeline = load_pipeline(tiny, mistakes={})
    checks = check_stages(pipeline, options=Options(sample=100, offline=True, whole=False))
    assert [check.stage for check in checks] == STAGES
    assert not has_errors(merged(checks)), merged(checks)
    assert all(check.material and check.material.origin.stand_in for check in checks)
    assert {check.stage: check.material.rows.count("train") for check in checks} == {
        "tokenizer": 20_000,
        "pretrain": 45_000,
        "sft": 9_000,
        "reward": 6_000,
        "dpo": 4_000,
        "ppo": 6_000,
    }
    assert checks[2].material.origin.context == 256
    assert not Path("runs").exists()
    assert summary(checks).startswith("6 stages checked: 0 errors, 0 warnings, ")
    assert summary(checks[:1]) == "1 stage checked: 0 errors, 0 warnings, 2 notes"


def test_a_finished_tokenizer_takes_the_place_of_the_stand_in(tiny, tmp_path):
    """Of its own stage too, which made it."""
    made = tmp_path / "made"
    train_tokenizer(["Two words, and a few more."] * 30, 270, 256).save_pretrained(made)
    pipeline = load_pipeline(tiny, mistakes={})
    options = Options(sample=20, offline=True, whole=False)
    checks = check_stages(pipeline, remaining={"tokenizer": made}, only=["tokenizer", "pretrain"], options=options)
    assert [len(check.material.tokenizer) for check in checks] == [270, 270]
    assert "estimated:" not in show_findings(merged(checks), colour=False) + "".join(
        show_stage(c, 0, False) for c in checks
    )


def test_a_stage_of_a_pipeline_is_checked_before_its_parents_have_run(tiny, capsys):
    code = console.main(
        ["check", str(tiny / "dpo.yaml"), "--offline", "--dataset_name", "tinyworld:preference?pairs=60"]
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert "== dpo (recipes/tiny/dpo.yaml)" in printed and "estimated: the tokenizer is not trained yet" in printed
    assert "rows used: 60 train, 500 validation" in printed


def test_a_single_stage_needs_no_inputs_of_its_parents(tmp_path, capsys, monkeypatch):
    """A parent that has not run is looked at if its inputs are given, and otherwise noted as not checked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "math.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n' * 64)
    command = ["check", str(REPOSITORY / "recipes/lora-1gpu/grpo.yaml"), "--math", "math.jsonl", "--offline"]
    assert console.main(command) == 0
    printed = capsys.readouterr().out
    assert "note: grpo: not checked: the input model, from which an earlier stage starts, was not given" in printed
    model = write_model(tmp_path / "model", foreign_tokenizer(template=None), max_position_embeddings=512)
    assert console.main([*command, "--model", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "gets chatml" in printed and "not checked" not in printed


def test_errors_of_several_stages_are_collected_and_shared_ones_reported_once(tmp_path, capsys):
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(
        yaml.safe_dump({"stages": {"sft": "sft.yaml", "dpo": "dpo.yaml"}}, sort_keys=False)
    )
    model = write_model(tmp_path / "model", foreign_tokenizer(pad_token="<|im_end|>"))
    common = {"max_length": 128, "report_to": "none"}
    (folder / "sft.yaml").write_text(
        yaml.safe_dump(common | {"model_name_or_path": str(model), "dataset_name": "nowhere.jsonl"})
    )
    recipe = common | {"model_name_or_path": str(model), "dataset_name": "tinyworld:preference?pairs=40", "beat": 1}
    (folder / "dpo.yaml").write_text(yaml.safe_dump(recipe))
    assert console.main(["check", str(folder), "--output_dir", str(tmp_path / "run")]) == 1
    printed = capsys.readouterr().out
    assert "error: sft: There is no file nowhere.jsonl" in printed
    assert f"error: dpo: {folder / 'dpo.yaml'}: unknown key 'beat'" in printed
    recipe.pop("beat")
    (folder / "dpo.yaml").write_text(yaml.safe_dump(recipe))
    few = "tinyworld:sft?demonstrations=40"
    (folder / "sft.yaml").write_text((folder / "sft.yaml").read_text().replace("nowhere.jsonl", few))
    assert console.main(["check", str(folder), "--output_dir", str(tmp_path / "run")]) == 1
    assert "error: sft, dpo: the pad token is the EOS token" in capsys.readouterr().out


def test_data_outside_the_cache_is_noted_as_not_checked(tmp_path, capsys):
    recipe = {"model_name_or_path": "some-org/some-model", "dataset_name": "some-org/some-data", "report_to": "none"}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(recipe))
    assert console.main(["check", str(tmp_path / "sft.yaml"), "--offline"]) == 0
    assert "note: sft: not checked (offline): some-org/some-data" in capsys.readouterr().out
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(recipe | {"dataset_name": "tinyworld:sft?demonstrations=50"}))
    assert console.main(["check", str(tmp_path / "sft.yaml"), "--offline"]) == 0
    assert "note: sft: not checked (offline): some-org/some-model" in capsys.readouterr().out


def test_learned_tokens_are_marked(case, capsys):
    code, printed = case.check(capsys, "--samples", "1")
    assert code == 0
    assert "<|im_start|>user\nSay zebra 0.<|im_end|>\n<|im_start|>assistant\n[[Zebra 0.<|im_end|>]]\n" in printed
    tokenizer = foreign_tokenizer()
    ids = tokenizer("zebra river")["input_ids"]
    learned = [False] + [True] * (len(ids) - 1)
    assert mark(ids, learned, tokenizer, colour=True).startswith(f"zebra{GREEN} ")
    assert mark(ids, learned, tokenizer, colour=False) == "zebra[[ river]]"


@pytest.mark.parametrize(
    ("terminal", "no_color", "colours"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals(terminal, no_color, colours, monkeypatch):
    from alignment.check.display import in_colour

    class Stream:
        def isatty(self):
            return terminal

    monkeypatch.setenv("NO_COLOR", no_color)
    assert in_colour(Stream()) is colours


def test_the_template_that_trl_trains_with_is_named(case, capsys):
    from trl.chat_template_utils import qwen2_5_chat_template

    case.template = qwen2_5_chat_template
    code, printed = case.check(capsys)
    assert code == 0, printed
    assert "TRL trains with its own qwen2_5_training_chat_template" in printed
    assert "assistant[[\nZebra 0.<|im_end|>\n]]" in printed


def test_memory_and_time_are_estimated_for_models_not_trained_yet(tiny):
    """LoRA on a model that is not trained yet, on a machine too small for it."""
    pipeline = load_pipeline(tiny.parent / "tiny-lora", mistakes={})
    options = Options(sample=20, offline=True, whole=False)
    checks = check_stages(pipeline, options=options, device=Device("a small machine", memory=10**6))
    costs = {check.stage: "\n".join(check.costs) for check in checks}
    assert costs["tokenizer"] == ""
    assert "model   990k parameters\n" in costs["pretrain"]
    assert "Li et al. 2025" in costs["pretrain"] and "Li et al." not in costs["sft"]
    for stage in ("sft", "reward", "dpo", "ppo"):
        assert "of them trained (7." in costs[stage], stage
    unfit = {found.stage for check in checks for found in check.findings if "does not fit the memory" in found.what}
    assert unfit == {"pretrain", "sft", "reward", "dpo", "ppo"}


def test_labels_of_kto_differ():
    rows = [{"prompt": [], "completion": [], "label": label} for label in (True, True, False)]
    assert not list(check_labels(rows))
    (found,) = check_labels(rows[:2])
    assert found.severity == "error" and found.what == "all labels are the same"


def test_a_finished_parent_is_read_and_left_alone(case, capsys):
    run_dir = case.folder / "runs"
    model = run_dir / "pretrain/checkpoint"
    case.recipe = {"model_name_or_path": "pretrain"}
    file = case.write()
    model.parent.mkdir(parents=True)
    (case.folder / "model").rename(model)
    (run_dir / "pretrain/stage.json").write_text("{}")
    before = files_of(case.folder)
    code = console.main(["check", str(file), "--output_dir", str(run_dir), "--max_length", "512"])
    printed = capsys.readouterr().out
    assert code == 1 and "max_length 512, 256 positions" in printed and "estimated:" not in printed
    assert files_of(case.folder) == before


def test_a_run_stops_before_training_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": ""}]} for n in range(9)
    ]
    rows += [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "9"}]} for n in range(9)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe").mkdir()
    stages = {name: str(REPOSITORY / f"recipes/tiny/{name}.yaml") for name in ("tokenizer", "pretrain")}
    (tmp_path / "recipe/pipeline.yaml").write_text(
        yaml.safe_dump({"stages": stages | {"sft": "sft.yaml"}}, sort_keys=False)
    )
    recipe = {"extends": str(REPOSITORY / "recipes/tiny/sft.yaml"), "dataset_name": "rows.jsonl"}
    (tmp_path / "recipe/sft.yaml").write_text(yaml.safe_dump(recipe))
    assert console.main(["run", "recipe", "--quick"]) == 2
    assert "sft: rows are dropped: assistant turns are empty" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_exit_codes_of_the_command(tmp_path, case):
    command = [sys.executable, str(REPOSITORY / "align.py"), "check"]
    assert console.main(["check", str(tmp_path / "nowhere")]) == 2
    case.recipe = {"max_length": 512}
    found = subprocess.run([*command, str(case.write()), "--offline"], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 1 and "\x1b" not in found.stdout and "Traceback" not in found.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["gpt2-124m", "tldr-pythia-1b"])
def test_recipes_on_data_of_the_hub_are_checked_offline(name, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert console.main(["check", f"recipes/{name}", "--offline"]) == 0
    printed = capsys.readouterr().out
    assert "0 errors" in printed and "not checked (offline)" in printed


def test_the_sample_is_spread_and_the_longest_row_of_all_is_found(case, capsys):
    """The last tenth of the rows has a system turn; a row outside the sample is the longest."""
    rows = [{"messages": [turn("user", "Say zebra."), turn("assistant", "Zebra.")]} for _ in range(40)]
    for row in rows[36:]:
        row["messages"].insert(0, turn("system", "Be short."))
    rows[33]["messages"][1]["content"] = "Zebra. " * 25
    case.rows, case.recipe = rows, {"eval_share": 0}
    _, printed = case.check(capsys, "--sample", "10", "--samples", "10")
    assert "in 10 of 40 training rows, evenly spread" in printed
    assert [int(number) for number in re.findall(r"-- row (\d+), ", printed)] == list(range(0, 40, 4))
    longest = len(foreign_tokenizer().apply_chat_template(rows[33]["messages"], return_dict=True)["input_ids"])
    assert f"at most {longest}" in printed
    assert "Be short." in printed
