"""Damage to checkpoints and run files is detected, and damaged files are never loaded."""

import json
import shutil
from pathlib import Path

import pandas
import ppo_tiny as tiny
import pytest
import torch
from peft import get_peft_model
from stored_runs import make_run

import align
from alignment.durable.manifest import MANIFEST, cover, damage, digest_checkpoint, new_checkpoint, write_manifest
from alignment.durable.steps import Progress, newest_intact
from alignment.errors import UserError
from alignment.models.loading import load_causal_lm, load_tokenizer, load_trainable
from alignment.pipeline.records.record import RunRecord
from alignment.report import write_report
from alignment.report.content import collect
from alignment.stages.shared.saving import save_checkpoint
from eval.frontier.points import read_metrics
from eval.harness.store import is_whole, load_run, save_run


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    """RUN/{full, sharded, adapter}/checkpoint and RUN/sft/trainer/checkpoint-{4, 8}, as the stages write them."""
    run = tmp_path_factory.mktemp("corruptions")
    with new_checkpoint(run / "full/checkpoint") as folder:
        save_checkpoint(tiny.model(), tiny.tokenizer(), folder)
    with new_checkpoint(run / "sharded/checkpoint") as folder:
        tiny.model().save_pretrained(folder, max_shard_size="20KB")
        tiny.tokenizer().save_pretrained(folder)
    policy = tiny.active(get_peft_model(tiny.model(), tiny.lora()))
    policy.peft_config["default"].base_model_name_or_path = str(run / "full/checkpoint")
    with new_checkpoint(run / "adapter/checkpoint") as folder:
        save_checkpoint(policy, tiny.tokenizer(), folder)
    for name in ("full", "sharded", "adapter"):  # as the pipeline does
        lineage = {"stage": name, "method": "sft", "parents": {}}
        if name == "adapter":
            lineage["base_digest"] = digest_checkpoint(run / "full/checkpoint")
        (run / name / "checkpoint/lineage.json").write_text(json.dumps(lineage))
        cover(run / name / "checkpoint", "lineage.json")
    for step in (4, 8):
        folder = run / f"sft/trainer/checkpoint-{step}"
        tiny.model(seed=step).save_pretrained(folder)
        torch.save({"state": torch.zeros(9)}, folder / "optimizer.pt")
        torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 12}))
        Progress(metrics_lines=step).write(folder)
        write_manifest(folder, sync=False)
    return run


@pytest.fixture
def run(intact, tmp_path) -> Path:
    copy = tmp_path / "run"
    shutil.copytree(intact, copy)
    return copy


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    """Zeros, as a power cut leaves a file that was renamed before it was flushed."""
    path.write_bytes(bytes(path.stat().st_size))


def swap(path: Path) -> None:
    """Swap a file with another one of its type."""
    other = next(file for file in sorted(path.parent.glob(f"*{path.suffix}")) if file != path)
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second), other.write_bytes(first)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def add(path: Path) -> None:
    path.write_bytes(b"not asked for")


def forget(path: Path) -> None:
    """Take a file's entry out of the manifest."""
    content = json.loads((path.parent / MANIFEST).read_text())
    del content["files"][path.name]
    (path.parent / MANIFEST).write_text(json.dumps(content))


def rename(path: Path) -> None:
    path.rename(path.with_name(f"old-{path.name}"))


WEIGHTS = [flip, truncate, lengthen, empty, zero, Path.unlink, replace_by_folder, forget, rename]
HARMS = {
    ("full/checkpoint", "model.safetensors"): WEIGHTS,
    ("full/checkpoint", "config.json"): [flip, truncate, Path.unlink, swap],
    ("full/checkpoint", "tokenizer.json"): [flip, empty, Path.unlink],
    ("full/checkpoint", "chat_template.jinja"): [lengthen, Path.unlink],
    ("full/checkpoint", "generation_config.json"): [Path.unlink],
    ("full/checkpoint", "lineage.json"): [flip, Path.unlink],
    ("full/checkpoint", MANIFEST): [Path.unlink, empty, truncate, zero],
    ("full/checkpoint", "pytorch_model.bin"): [add],
    ("full/checkpoint", "model-00001-of-00002.safetensors"): [add],
    ("full/checkpoint", "adapter_config.json"): [add],
    ("full/checkpoint", "modeling_extra.py"): [add],
    ("sharded/checkpoint", "model-00002-of-*.safetensors"): [*WEIGHTS, swap],
    ("sharded/checkpoint", "model.safetensors.index.json"): [flip, truncate, Path.unlink],
    ("adapter/checkpoint", "adapter_model.safetensors"): WEIGHTS,
    ("adapter/checkpoint", "adapter_config.json"): [truncate, lengthen],
    ("adapter/checkpoint", "adapter_model.bin"): [add],
}
CASES = [(place, name, harm) for (place, name), harms in HARMS.items() for harm in harms]
STEP_HARMS = {
    "model.safetensors": [flip, truncate, Path.unlink],
    "optimizer.pt": [flip, truncate, empty, Path.unlink],
    "rng_state.pth": [zero, Path.unlink],
    "trainer_state.json": [truncate, lengthen],
    "progress.json": [empty],
    MANIFEST: [Path.unlink, truncate],
}
STEP_CASES = [(name, harm) for name, harms in STEP_HARMS.items() for harm in harms]


def file(folder: Path, name: str) -> Path:
    return next(folder.glob(name), folder / name)


def test_what_was_written_loads(run):
    for name in ("full", "sharded", "adapter"):
        assert damage(run / name / "checkpoint") == []
        load_causal_lm(run / name / "checkpoint")
    assert newest_intact(run / "sft/trainer").name == "checkpoint-8"


@pytest.mark.parametrize(("place", "name", "harm"), CASES)
def test_a_damaged_checkpoint_is_not_loaded(run, place, name, harm):
    harm(file(run / place, name))
    assert damage(run / place)
    with pytest.raises(UserError):
        load_causal_lm(run / place)
    assert align.main(["info", "--verify", str(run / place)]) == 2


@pytest.mark.parametrize(("name", "harm"), STEP_CASES)
def test_a_damaged_step_checkpoint_is_passed_over_for_the_one_before(run, name, harm):
    newest = run / "sft/trainer/checkpoint-8"
    harm(newest / name)
    with pytest.raises(UserError):
        load_trainable(newest, "causal-lm")
    assert align.main(["info", "--verify", str(newest)]) == 2
    assert newest_intact(run / "sft/trainer").name == "checkpoint-4"


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_an_adapter_is_not_loaded_onto_a_damaged_base(run, harm):
    """The adapter names the intact base of the original run; the damaged base of its own run counts."""
    harm(run / "full/checkpoint/model.safetensors")
    with pytest.raises(UserError, match=f"{run / 'full/checkpoint'} is damaged"):
        load_causal_lm(run / "adapter/checkpoint")


def test_an_adapter_is_not_loaded_onto_another_base(run, intact):
    config = run / "adapter/checkpoint/adapter_config.json"
    config.write_text(config.read_text().replace(str(intact / "full"), str(run / "full")))
    cover(config.parent, config.name)
    load_causal_lm(config.parent)
    with new_checkpoint(run / "full/checkpoint") as folder:
        save_checkpoint(tiny.model(seed=1), tiny.tokenizer(), folder)
    with pytest.raises(UserError, match="whose base model has changed"):
        load_causal_lm(config.parent)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_damaged_tokenizer_is_not_loaded(run, name):
    flip(run / "full/checkpoint" / name)
    with pytest.raises(UserError, match=name):
        load_tokenizer(run / "full/checkpoint")


@pytest.mark.parametrize("harm", [flip, truncate, empty, zero, Path.unlink])
def test_damaged_items_of_an_evaluation_are_not_compared(tmp_path, harm):
    make_run(tmp_path, "sft", {"sums": [0, 1]})
    assert is_whole(tmp_path) and len(load_run(tmp_path).items) == 2
    harm(tmp_path / "items.parquet")
    assert not is_whole(tmp_path)
    with pytest.raises(UserError, match=r"items\.parquet"):
        load_run(tmp_path)


@pytest.mark.parametrize("harm", [truncate, empty, zero])
def test_a_damaged_run_json_is_named(tmp_path, harm):
    save_run(tmp_path, {"stage": "sft"}, pandas.DataFrame({"score": [0.0]}))
    harm(tmp_path / "run.json")
    assert not is_whole(tmp_path)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        load_run(tmp_path)


@pytest.mark.parametrize("harm", [truncate, empty, zero])
@pytest.mark.parametrize("name", ["pipeline.json", "sft/stage.json"])
def test_damaged_records_of_a_run_are_named(tmp_path, name, harm):
    (tmp_path / "sft").mkdir()
    record = RunRecord(tmp_path)
    record.replace("stages", "sft", status="done")
    (tmp_path / "sft/stage.json").write_text(json.dumps({"stage": "sft", "metrics": {"loss": 1.0}}))
    write_report(tmp_path)
    harm(tmp_path / name)
    with pytest.raises(UserError, match=f"{Path(name).name} is damaged"):
        write_report(tmp_path)
    if name == "pipeline.json":
        with pytest.raises(UserError, match=r"pipeline\.json is damaged"):
            RunRecord(tmp_path)


@pytest.mark.parametrize("harm", [truncate, empty, flip, Path.unlink])
def test_a_damaged_report_is_written_anew(tmp_path, harm):
    RunRecord(tmp_path).replace("stages", "sft", status="failed")
    page = write_report(tmp_path).read_text()
    report = (tmp_path / "report.json").read_text()
    harm(tmp_path / "report.json")
    assert write_report(tmp_path).read_text() == page
    assert (tmp_path / "report.json").read_text() == report


def test_a_torn_last_line_of_the_metrics_is_left_out_and_one_before_it_is_named(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.5}) + "\n" for step in (1, 2, 3)]
    (tmp_path / "sft").mkdir()
    RunRecord(tmp_path).replace("stages", "sft", status="running")
    metrics = tmp_path / "sft/metrics.jsonl"
    for kept in range(1, len(lines[2]) - 1):
        metrics.write_text("".join(lines[:2]) + lines[2][:kept])
        assert [line["step"] for line in read_metrics(metrics)] == [1, 2]
    assert collect(tmp_path)["curves"]["sft"] == {"loss": [[1, 1.5], [2, 1.5]]}
    metrics.write_text(lines[0] + lines[1][:9] + lines[2])
    for read in (read_metrics, lambda _: collect(tmp_path)):
        with pytest.raises(UserError, match="damaged in line 2"):
            read(metrics)
