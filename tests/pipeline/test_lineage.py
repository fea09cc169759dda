"""Lineage of checkpoints, and refusal of damaged or foreign parents."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import align
from alignment.durable.manifest import damage, new_checkpoint
from alignment.errors import UserError
from alignment.models.checkpoints import read_lineage
from alignment.pipeline.records.environment import code_digest
from alignment.pipeline.records.lineage import lineage_lines

HOLD = """
import sys
from pathlib import Path
from alignment.durable.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def checkpoint(project, stage: str) -> Path:
    return project.run_dir / stage / "checkpoint"


def replace_by_hand(folder: Path) -> None:
    """A different model, written like a stage's."""
    with new_checkpoint(folder) as partial:
        (partial / "weights.json").write_text('{"another": "model"}')
        (partial / "config.json").write_text(json.dumps({"architectures": ["FakeForCausalLM"]}))


def test_the_lineage_goes_back_to_random_weights(project):
    project.run()
    lineage = read_lineage(checkpoint(project, "aligned"))
    record = project.record()["stages"]
    tuned, judge = (lineage["parents"][key] for key in ("model_name_or_path", "reward_model_path"))
    assert (tuned["stage"], judge["stage"]) == ("tuned", "judge")
    base = judge["parents"]["model_name_or_path"]["parents"]["model_name_or_path"]
    assert base["parents"]["tokenizer"]["stage"] == "words"
    for one in (lineage, tuned, judge, base):
        entry = record[one["stage"]]
        assert one["digest"] == entry["checkpoint_digest"] and one["recipe_digest"] == entry["recipe_digest"]
        assert one["code"] == entry["code"] == code_digest()
        assert one["seed"] == 3 and one["versions"]["torch"]
    assert damage(checkpoint(project, "aligned")) == []


def test_the_lineage_is_printed_for_runs_and_copied_checkpoints(project, capsys):
    project.run()
    capsys.readouterr()
    assert align.main(["info", "runs/fake"]) == 0
    of_the_run = capsys.readouterr().out
    shutil.copytree(checkpoint(project, "aligned"), "copied")
    Path("copied/config.json").unlink()  # so that no model is looked for
    shutil.rmtree("runs")
    assert align.main(["info", "copied"]) == 0
    of_the_copy = capsys.readouterr().out
    assert of_the_run == of_the_copy
    for words in (
        "aligned (aligned, seed 3)",
        "reward_model_path: judge (judge",
        "tokenizer: words (words",
        "as above",
    ):
        assert words in of_the_copy, words


def test_a_model_without_a_parent_is_from_random_weights():
    made = {"method": "pretrain", "stage": "pretrain", "seed": 0, "digest": "ab" * 32}
    foreign = {"from": "org/tokenizer"}
    lines = lineage_lines({**made, "parents": {"tokenizer_name_or_path": foreign}})
    assert "from random weights, seed 0" in lines[0] and "org/tokenizer, from outside" in lines[-1]
    assert "from random weights" not in lineage_lines({**made, "parents": {"model_name_or_path": foreign}})[0]


def test_data_digests_are_recorded(project, tmp_path):
    (tmp_path / "rows.jsonl").write_text("one")
    project.run("--tuned.dataset_name", "rows.jsonl", until="tuned")
    assert list(project.record()["stages"]["tuned"]["data"]) == ["rows.jsonl"]
    assert read_lineage(checkpoint(project, "tuned"))["data"] == project.record()["stages"]["tuned"]["data"]


def test_a_parent_that_was_replaced_between_stages_is_refused(project, monkeypatch):
    from fake_stages import tuned

    work = tuned.run

    def run_and_be_replaced(settings, options):
        work(settings, options)
        monkeypatch.setattr("fake_stages.judge.check", lambda *_: replace_by_hand(folder), raising=False)

    folder = checkpoint(project, "tuned")
    monkeypatch.setattr(tuned, "run", run_and_be_replaced)
    with pytest.raises(UserError, match="is not the checkpoint that the stage tuned wrote"):
        project.run()
    assert project.ran() == ["words", "base", "tuned"]


def test_a_replaced_checkpoint_is_refused_before_anything_runs(project):
    project.run(until="judge")
    replace_by_hand(checkpoint(project, "tuned"))
    with pytest.raises(UserError, match="is not the checkpoint that the stage tuned wrote"):
        project.run(dry_run=True)
    shutil.move(project.run_dir / "tuned", "tuned-by-hand")
    assert project.run() == ["tuned", "judge", "aligned"]


@pytest.mark.parametrize("name", ["weights.json", "config.json", "manifest.json", "lineage.json"])
def test_a_damaged_parent_is_refused_and_nothing_is_moved(project, name):
    project.run()
    path = checkpoint(project, "tuned") / name
    path.write_text(path.read_text()[:-3])
    with pytest.raises(UserError, match="damaged"):
        project.run("--judge.learning_rate", "0.5")
    assert not (project.run_dir / "previous").exists()
    assert project.record()["stages"]["judge"]["status"] == "done"


def test_a_second_run_in_the_same_directory_is_refused(project):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, project.run_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on"):
        project.run()
    assert project.ran() == []
    holder.kill()
    holder.wait()
    assert len(project.run()) == 5


def test_results_of_another_process_since_the_plan_are_not_overwritten(project, monkeypatch):
    pipeline = project.load()
    before = {}

    def another_runs(*_):
        if not before:
            before["ran"] = True
            project.run()

    from alignment.pipeline.runner import run_pipeline

    with pytest.raises(UserError, match="has changed while the run was planned"):
        run_pipeline(pipeline, harness=project.harness, check=another_runs)
    assert len(project.ran()) == 5


def test_a_clock_set_back_changes_nothing(project):
    """All files carry times in the future, and then the clock is corrected."""
    project.set(evals={"suites": ["facts"], "stages": ["tuned"], "formats": ["plain"]})
    project.run()
    future = 4_000_000_000
    for number, path in enumerate(sorted(project.run_dir.rglob("*"), reverse=True)):
        os.utime(path, (future + number, future + number))
    assert project.run() == []
    assert project.run("--judge.learning_rate", "0.5") == ["judge", "aligned"]
    assert project.run("--judge.learning_rate", "0.7") == ["judge", "aligned"]
    kept = sorted(path.name for path in (project.run_dir / "previous").iterdir())
    assert kept == ["aligned-1", "aligned-2", "judge-1", "judge-2"]


def test_a_pruned_number_is_not_reused_below_existing_ones(project):
    project.run()
    for rate in ("0.1", "0.2"):
        project.run("--aligned.learning_rate", rate)
    shutil.rmtree(project.run_dir / "previous/aligned-1")
    project.run("--aligned.learning_rate", "0.3")
    assert sorted(path.name for path in (project.run_dir / "previous").iterdir()) == ["aligned-2", "aligned-3"]


def test_a_damaged_evaluation_is_rerun_and_blocks_no_stage(project):
    project.set(evals={"suites": ["facts"], "stages": ["tuned"], "formats": ["plain"]})
    project.run()
    run = project.run_dir / "evals/tuned-facts-plain/run.json"
    for options in ([], ["--tuned.learning_rate", "0.5"]):
        run.write_text(run.read_text()[:-9])
        project.run(*options)
        assert json.loads(run.read_text())["stage"] == "tuned"
    assert len(project.harness.runs) == 3
