"""Which stages a run repeats, the state after failures, and the record."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from alignment.durable.lock import locked
from alignment.errors import Interrupted, UserError
from alignment.pipeline.graph import load_stage
from alignment.pipeline.recipes.overrides import route_overrides
from alignment.pipeline.records.previous import OWN_RECIPE, holds_results, set_aside
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.runner import run_pipeline
from alignment.pipeline.stopping import stopping

ALL = ["words", "base", "tuned", "judge", "aligned"]


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_all_stages_run_in_order_and_then_none(project, capsys):
    assert project.run() == ALL
    assert all(entry["status"] == "done" for entry in project.record()["stages"].values())
    capsys.readouterr()
    assert project.run() == []
    assert capsys.readouterr().out.count("up to date, skipped (recipe and parents unchanged)") == 5


@pytest.mark.parametrize(
    ("changed", "rerun"),
    [
        ("words", ALL),
        ("tuned", ["tuned", "judge", "aligned"]),
        ("judge", ["judge", "aligned"]),
        ("aligned", ["aligned"]),
    ],
)
def test_a_changed_recipe_reruns_the_stage_and_its_children(project, changed, rerun):
    project.run()
    assert project.run(f"--{changed}.learning_rate", "0.5") == rerun


def test_the_plan_gives_reasons(project, capsys):
    project.run()
    capsys.readouterr()
    project.run("--judge.learning_rate", "0.5", dry_run=True)
    plan = capsys.readouterr().out
    assert "run (recipe changed: learning_rate)" in plan
    assert "run (judge runs again)" in plan
    assert plan.count("up to date") == 3


def test_a_stale_child_is_rerun_later(project):
    project.run()
    assert project.run("--base.learning_rate", "0.5", until="base") == ["base"]
    assert project.run("--base.learning_rate", "0.5") == ["tuned", "judge", "aligned"]


def test_the_pipelines_seed_is_the_default_of_every_stage(project):
    project.write("judge", {"model_name_or_path": "tuned", "seed": 99})
    project.run()
    seeds = {name: entry["seed"] for name, entry in project.record()["stages"].items()}
    assert seeds == {"words": 3, "base": 3, "tuned": 3, "judge": 99, "aligned": 3}
    assert project.run(seed=4) == ALL
    assert json.loads((project.run_dir / "base/checkpoint/weights.json").read_text())["seed"] == 4


def test_a_changed_data_file_reruns(project, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("one")
    project.run("--tuned.dataset_name", "rows.jsonl")
    assert project.run("--tuned.dataset_name", "rows.jsonl") == []
    data.write_text("two")
    assert project.run("--tuned.dataset_name", "rows.jsonl") == ["tuned", "judge", "aligned"]


def test_a_changed_parent_outside_the_run_reruns_its_child(project):
    project.run(until="base")
    Path("runs/fake/base/checkpoint").rename("foreign")
    project.write("tuned", {"model_name_or_path": "./foreign"})
    project.set(stages={"tuned": "tuned.yaml"}, name="other")
    project.run_dir = Path("runs/other")
    assert project.run() == ["tuned"]
    assert project.run() == []
    Path("foreign/weights.json").write_text('{"other": "weights"}')
    with pytest.raises(UserError, match=r"weights\.json has"):
        project.run()
    for name in ("manifest.json", "lineage.json"):  # meant to be so
        Path("foreign", name).unlink()
    assert project.run() == ["tuned"]


def test_a_stage_without_its_checkpoint_is_rerun(project):
    project.run()
    os.rename("runs/fake/judge/checkpoint", "elsewhere")
    assert project.run() == ["judge", "aligned"]


def test_until_stops_after_a_stage(project):
    assert project.run(until="tuned") == ["words", "base", "tuned"]
    assert project.run() == ["judge", "aligned"]
    with pytest.raises(UserError, match="did you mean 'tuned'"):
        project.run(until="tuend")


def test_fresh_reruns_everything_and_keeps_previous_results(project, capsys):
    project.run()
    before = Path("runs/fake/base/checkpoint/weights.json").read_text()
    assert project.run(fresh=True) == ALL
    assert Path("runs/fake/previous/base-1/checkpoint/weights.json").read_text() == before
    assert "base: its previous folder was moved to runs/fake/previous/base-1" in capsys.readouterr().out


def test_dry_run_changes_nothing_on_disk(project, tmp_path):
    before = files(tmp_path)
    assert project.run(dry_run=True) == []
    assert files(tmp_path) == before
    project.run(until="base")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    project.run(fresh=True, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_failed_stage_is_recorded_and_earlier_ones_are_kept(project):
    with pytest.raises(RuntimeError, match="out of luck"):
        project.run("--tuned.fail", "out of luck")
    stages = project.record()["stages"]
    assert {name: entry["status"] for name, entry in stages.items()} == {
        "words": "done",
        "base": "done",
        "tuned": "failed",
    }
    assert "out of luck" in stages["tuned"]["error"]
    assert project.run() == ["tuned", "judge", "aligned"]


def test_an_interrupted_stage_runs_again(project):
    with pytest.raises(KeyboardInterrupt):
        project.run("--judge.fail", "interrupt")
    assert project.record()["stages"]["judge"]["status"] == "interrupted"
    assert project.run("--judge.fail", "null") == ["judge", "aligned"]


def test_reruns_are_numbered_and_none_is_deleted(project):
    project.run()
    finished = Path("runs/fake/tuned/checkpoint/weights.json").read_text()
    for reason in ("first", "second"):
        with pytest.raises(RuntimeError):
            project.run("--tuned.fail", reason)
    project.run("--tuned.learning_rate", "0.5")
    kept = sorted(Path("runs/fake/previous").glob("tuned*"))
    assert [path.name for path in kept] == ["tuned-1", "tuned-2", "tuned-3"]
    assert (kept[0] / "checkpoint/weights.json").read_text() == finished
    assert [(path / "checkpoint").exists() for path in kept] == [True, False, False]


def test_a_stage_refused_by_its_check_moves_and_records_nothing(project, monkeypatch):
    from fake_stages import tuned

    project.run()
    before = (project.run_dir / "tuned/checkpoint/weights.json").read_text()

    def check(settings, options):
        assert Path(options.model_name_or_path).is_dir()
        raise UserError("the base has no chat template")

    monkeypatch.setattr(tuned, "check", check, raising=False)
    with pytest.raises(UserError, match="no chat template"):
        project.run("--tuned.learning_rate", "0.5")
    assert (project.run_dir / "tuned/checkpoint/weights.json").read_text() == before
    assert not (project.run_dir / "previous").exists()


def test_a_stage_begins_when_nothing_speaks_against_it_and_before_its_folder_moves(project, monkeypatch):
    """A recipe that is written there never lies beside another's result."""
    from fake_stages import words

    project.run(until="words")
    there = project.run_dir / "words/stage.json"
    begun = []

    def begin():
        begun.append(there.exists())

    def check(*configs):
        raise UserError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(words, "check", check, raising=False)
        with pytest.raises(UserError, match="refused"):
            project.run("--words.learning_rate", "0.5", begin=begin)
    assert begun == []
    project.run("--words.learning_rate", "0.5", begin=begin, until="words")
    assert begun == [True] and (project.run_dir / "previous/words-1").is_dir()
    project.run("--words.learning_rate", "0.5", begin=begin, until="words")  # up to date: the recipe describes it
    assert begun == [True, True]


def test_a_stage_that_was_killed_runs_again_in_its_folder(project, capsys):
    project.run(until="judge")
    RunRecord(project.run_dir).update("stages", "judge", status="running")
    (project.run_dir / "judge/stage.json").unlink()
    (project.run_dir / "judge/trainer/kept").touch()
    capsys.readouterr()
    assert project.run() == ["judge", "aligned"]
    assert "judge: running (interrupted last time; restarts, as there is no step" in capsys.readouterr().out
    assert (project.run_dir / "judge/trainer/kept").exists() and not (project.run_dir / "previous").exists()
    assert project.record()["stages"]["judge"]["attempts"] == 2


def test_a_stage_that_was_killed_between_its_last_file_and_its_record_is_only_recorded(project, capsys):
    project.run(until="judge")
    digest = project.record()["stages"]["judge"]["digest"]
    RunRecord(project.run_dir).update("stages", "judge", status="running", digest=None)
    capsys.readouterr()
    assert project.run(until="judge") == []
    assert "judge: running (interrupted last time; finished, not yet recorded)" in capsys.readouterr().out
    assert project.record()["stages"]["judge"]["digest"] == digest
    RunRecord(project.run_dir).update("stages", "judge", status="running")
    (project.run_dir / "judge/checkpoint/weights.json").write_text("{}")
    assert project.run(until="judge") == ["judge"]  # what is damaged does not count as finished


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_an_unfinished_stage_of_another_recipe_or_parent_is_set_aside(project, status):
    project.run()
    for name, changed in (("judge", "judge"), ("judge", "base")):
        RunRecord(project.run_dir).update("stages", name, status=status)
        before = len(list((project.run_dir / "previous").glob("judge-*")))
        project.run(f"--{changed}.learning_rate", f"0.{before + 5}", until="judge")
        assert len(list((project.run_dir / "previous").glob("judge-*"))) == before + 1


def test_an_interrupted_evaluation_runs_again_alone(project):
    evals = {"suites": ["facts"], "stages": ["base"], "formats": ["plain", "chat"]}
    project.set(evals=evals)
    evaluate = project.harness.evaluate

    def interrupted(*arguments, **options):
        if arguments[2] == "chat":
            raise KeyboardInterrupt
        evaluate(*arguments, **options)

    project.harness.evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        project.run()
    project.harness.evaluate, project.harness.runs = evaluate, []
    assert project.run() == ALL[2:]
    assert [(run[0], run[3]) for run in project.harness.runs] == [("base", "chat")]


def test_the_record_holds_provenance(project):
    project.run(until="words")
    record = project.record()
    entry = record["stages"]["words"]
    assert entry["versions"]["torch"] and entry["versions"]["python"]
    assert entry["hardware"]["cores"] >= 1 and entry["hardware"]["memory_gb"] > 0
    assert {"recipe_digest", "parent_digests", "checkpoint_digest", "digest", "git", "started", "seconds"} <= set(entry)
    assert (record["name"], record["seed"]) == ("fake", 3)


def test_a_damaged_record_is_a_users_error(project):
    project.run(until="words")
    Path("runs/fake/pipeline.json").write_text("{half")
    with pytest.raises(UserError, match=r"pipeline.json is damaged"):
        project.run()


def test_a_folder_that_is_not_a_stages_is_not_overwritten(project):
    Path("runs/fake/tuned").mkdir(parents=True)
    Path("runs/fake/tuned/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        project.run()
    assert project.ran() == []
    assert Path("runs/fake/tuned/thesis.txt").read_text() == "mine"


def test_two_runs_do_not_share_a_directory(project):
    with locked(project.run_dir), pytest.raises(UserError, match="another align process is writing"):
        project.run()
    assert project.ran() == []


def test_stages_run_one_by_one_equal_a_run(project):
    for stage in ALL:
        pipeline = load_stage(stage, project.folder / f"{stage}.yaml", package="fake_stages")
        assert pipeline.run_dir == project.run_dir
        run_pipeline(pipeline)
    assert project.ran() == ALL
    assert project.run() == []


def test_a_single_stage_needs_its_parent(project):
    with pytest.raises(UserError, match=r"(?s)names a stage that has not been run.*align base .*base.yaml"):
        load_stage("tuned", project.folder / "tuned.yaml", package="fake_stages")


def test_a_single_stage_finds_its_parents_next_to_its_folder(project):
    project.run(until="base")
    pipeline = load_stage("tuned", project.folder / "tuned.yaml", [], "runs/fake/tuned-b", package="fake_stages")
    run_pipeline(pipeline)
    assert Path("runs/fake/tuned-b/checkpoint").is_dir()
    again = load_stage(
        "judge",
        project.folder / "judge.yaml",
        ["--model_name_or_path", "tuned-b"],
        "runs/fake/judge",
        package="fake_stages",
    )
    assert again.stages[0].parents == {"model_name_or_path": "tuned-b"}


def test_evaluations_follow_their_stages_and_are_skipped_when_unchanged(project, capsys):
    project.set(evals={"suites": ["facts"], "stages": ["base", "tuned"], "limit": 5})
    order = []
    project.harness.evaluate = lambda *a, **k: (
        order.append((k["stage"], len(project.ran()))),
        write_run(a[3], k["stage"]),
    )
    another = Path("runs/fake/evals/tuned-more-facts-plain")  # of a stage that was run by hand
    write_run(another, "tuned-more")
    project.run()
    assert order == [("base", 2), ("base", 2), ("tuned", 3), ("tuned", 3)]
    order.clear()
    project.run()
    assert order == []
    assert "evaluations up to date, skipped" in capsys.readouterr().out
    project.run("--tuned.learning_rate", "0.5")
    assert order == [("tuned", 6), ("tuned", 6)]
    assert Path("runs/fake/previous/tuned-1/evals/tuned-facts-plain/run.json").exists()
    assert (another / "run.json").exists()


def write_run(output_dir, stage):
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    Path(output_dir, "run.json").write_text(json.dumps({"stage": stage}))


def test_evaluations_run_again_for_another_suite_version_or_other_options(project):
    project.set(evals={"suites": ["facts"], "stages": ["tuned"], "formats": ["plain"]})
    project.run()
    assert project.harness.runs == [("tuned", "base", "facts", "plain")]
    project.harness.version = "2"
    project.run()
    project.run("--evals.limit", "3")
    project.run("--evals.limit", "3")
    assert len(project.harness.runs) == 3


def test_a_failed_evaluation_is_recorded_and_runs_again(project):
    project.set(evals={"suites": ["facts"], "stages": ["tuned"], "formats": ["plain"]})
    works = project.harness.evaluate

    def fails(*arguments, **options):
        raise RuntimeError("no luck")

    project.harness.evaluate = fails
    with pytest.raises(RuntimeError):
        project.run()
    assert project.record()["evals"]["tuned-facts-plain"]["status"] == "failed"
    assert project.record()["stages"]["tuned"]["status"] == "done"
    project.harness.evaluate = works
    assert project.run() == ["judge", "aligned"]
    assert project.record()["evals"]["tuned-facts-plain"]["status"] == "done"


@pytest.fixture
def handles_ctrl_c():
    """Handle SIGINT as in a terminal; a shell ignores it for background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGXCPU])
def test_an_evaluation_ended_by_a_signal_is_the_only_one_rerun(project, signum, handles_ctrl_c):
    project.set(evals={"suites": ["facts"], "stages": ["tuned"]})
    evaluate = project.harness.evaluate

    def signalled(checkpoint, suite, format, *args, **kwargs):
        if format == "chat":
            signal.raise_signal(signum)
        evaluate(checkpoint, suite, format, *args, **kwargs)

    project.harness.evaluate = signalled
    kept = "what is finished in runs/fake is kept: repeat the command to resume"
    again = "repeat the command without --fresh to resume"
    with pytest.raises(Interrupted, match=again), stopping(project.run_dir, fresh=True):
        project.run()
    with pytest.raises(Interrupted, match=kept) as stop, stopping(project.run_dir):
        project.run()
    assert stop.value.args[0] == signum
    assert [entry["status"] for entry in project.record()["evals"].values()] == ["done", "interrupted"]
    project.harness.evaluate = evaluate
    before = len(project.harness.runs)
    assert project.run() == ["judge", "aligned"]
    assert [run[3] for run in project.harness.runs[before:]] == ["chat"]


def test_a_full_disk_during_an_evaluation_is_explained(project):
    project.set(evals={"suites": ["facts"], "stages": ["tuned"]})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    project.harness.evaluate = full
    with pytest.raises(UserError, match="no space left on the disk for the evaluation tuned-facts-plain"):
        project.run()


def test_mistakes_in_the_evaluations_are_found_before_anything_runs(project):
    project.set(evals={"suites": ["facts", "fiction"], "stages": ["tuned"]})
    with pytest.raises(UserError, match="fiction"):
        project.run()
    project.set(evals={"suites": ["facts"], "stages": ["tuned"], "limits": 3})
    with pytest.raises(UserError, match="did you mean 'limit'"):
        project.run()
    for wrong in (
        {"limit": 0},
        {"seed": -1},
        {"extra": [{"stage": "tuned", "suite": "facts", "format": "plain", "limit": 0}]},
    ):
        project.set(evals={"suites": ["facts"], "stages": ["tuned"], **wrong})
        with pytest.raises(UserError, match="out of range"):
            project.run()
    assert project.ran() == []


def test_the_report_is_written_last(project, capsys):
    seen = []

    def write_report(run_dir):
        seen.append(project.ran())
        return run_dir / "report.html"

    project.run(write_report=write_report)
    assert seen == [ALL]
    assert "report: runs/fake/report.html" in capsys.readouterr().out


def test_a_stage_s_own_recipe_stays_when_its_results_are_set_aside(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / OWN_RECIPE).write_text("a: 1\n")
    assert set_aside("out", tmp_path) is None and not holds_results(folder)
    (folder / "stage.json").touch()
    kept = set_aside("out", tmp_path)
    assert [path.name for path in folder.iterdir()] == [OWN_RECIPE]
    assert [path.name for path in kept.iterdir()] == ["stage.json"]


def test_a_stage_named_without_a_key_is_named_with_one():
    with pytest.raises(UserError) as raised:
        route_overrides(["--sft", "1", "--evals", "2", "--beta", "3"], {"sft": {}}, {}, ())
    text = str(raised.value)
    assert "--sft.KEY VALUE, such as --sft.learning_rate 1e-4; --until sft" in text
    assert "--evals.KEY VALUE, such as --evals.limit 100" in text and "--STAGE.beta" in text and "STAGE.sft" not in text
