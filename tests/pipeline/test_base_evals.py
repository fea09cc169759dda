"""`base` in `evals.stages`: the model outside the pipeline that its first stage starts from."""

from pathlib import Path

import pytest

from alignment.durable.manifest import write_manifest
from alignment.errors import UserError
from alignment.pipeline.evals import EvalJob, run_jobs, up_to_date
from alignment.pipeline.records.record import RunRecord


@pytest.fixture
def tuned(project):
    """A pipeline of one stage that starts from a model outside, with `base` among its evaluated stages."""
    project.run(until="base")
    Path("runs/fake/base/checkpoint").rename("foreign")
    project.write("tuned", {"model_name_or_path": "./foreign"})
    evals = {"suites": ["facts"], "stages": ["base", "tuned"], "formats": ["plain"]}
    project.set(stages={"tuned": "tuned.yaml"}, name="other", evals=evals)
    project.run_dir, project.harness.runs = Path("runs/other"), []
    return project


def test_the_base_is_evaluated_once_and_again_if_it_changes(tuned, capsys):
    both = [("base", None, "facts", "plain"), ("tuned", "base", "facts", "plain")]
    assert tuned.run() == ["tuned"] and tuned.harness.runs == both
    assert "./foreign, not trained" in capsys.readouterr().out
    weights = Path("foreign/weights.json").read_text()
    assert weights in Path("runs/other/evals/base-facts-plain/run.json").read_text().replace('\\"', '"')
    assert tuned.run() == [] and tuned.harness.runs == both
    for name in ("manifest.json", "lineage.json"):
        Path("foreign", name).unlink()
    Path("foreign/weights.json").write_text('{"other": "weights"}')
    assert tuned.run() == ["tuned"] and tuned.harness.runs == both * 2


def test_a_pipeline_that_starts_from_random_weights_has_no_base(project):
    stages = {"words": "words.yaml", "aligned": "aligned.yaml"}
    project.write("aligned", {"model_name_or_path": "org/model", "reward_model_path": "org/reward"})
    evals = {"suites": ["facts"], "stages": ["base", "aligned"]}
    project.set(stages=stages, evals=evals)
    assert project.load().evals.stages == ["base", "aligned"]
    project.set(stages={"words": "words.yaml"}, evals=evals | {"stages": ["base"]})
    with pytest.raises(UserError, match=r"evals\.stages has no 'base'") as raised:
        project.load()
    assert "does not start from a model outside" in raised.value.fix


def test_the_base_is_asked_in_the_chat_template_of_the_stage_that_starts_from_it(tmp_path):
    """A base has often no template, and answers in another template are not compared."""
    place = tmp_path / "tuned/checkpoint"
    place.mkdir(parents=True)
    (place / "chat_template.jinja").write_text("one")
    write_manifest(place)
    record, asked = RunRecord(tmp_path), []
    record.replace("stages", "tuned", parent_digests={"model_name_or_path": "d"})

    class Harness:
        def load(self, checkpoint):
            return checkpoint

        def evaluate(self, checkpoint, suite, format, output_dir, **options):
            asked.append((checkpoint, format, options.get("chat_template")))
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            Path(output_dir, "run.json").write_text("{}")

    about = {"suite": "facts", "suite_digest": "1", "options": {}, "base": "org/model", "after": "tuned"}
    jobs = [EvalJob(f"base-{format}", "base", None, format=format, **about) for format in ("plain", "chat")]
    run_jobs(jobs, record, tmp_path, Harness(), print)
    assert asked == [("org/model", "plain", None), ("org/model", "chat", str(place))]
    assert [up_to_date(job, record, tmp_path) for job in jobs] == [True, True]
    (place / "chat_template.jinja").write_text("another")
    write_manifest(place)
    assert [up_to_date(job, record, tmp_path) for job in jobs] == [True, False]
