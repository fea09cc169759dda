"""The keys of `evals:` that the report reads."""

import pytest

from alignment.errors import UserError, UserErrors
from alignment.pipeline.evals import Harness

EVALS = {"suites": ["facts"], "stages": ["base", "tuned"], "formats": ["plain"]}


def test_keys_are_recorded_by_the_names_of_eval_runs_and_change_no_evaluation(project):
    project.harness.name = lambda suite: suite.upper()
    project.harness.tasks = lambda suite, format, options: ["facts", "easy"]
    project.set(evals=EVALS)
    project.run()
    assert project.record()["report"] == {}
    before = len(project.harness.runs)
    chosen = {"base": "tuned", "headline": {"facts": "easy"}, "samples": {"suite": "facts", "n": 5}}
    project.set(evals=EVALS | chosen)
    project.run()
    names = {"base": "tuned", "headline": {"FACTS": "easy"}, "samples": {"suite": "FACTS", "n": 5}}
    assert project.record()["report"] == names and len(project.harness.runs) == before


def test_two_suites_to_plot_are_recorded_by_the_names_of_eval_runs(project):
    project.harness.name, project.harness.formats = str.upper, lambda suite: ["plain"]
    project.set(evals=EVALS | {"suites": ["facts", "others"], "pareto": ["others", "facts"]})
    project.run()
    assert project.record()["report"] == {"pareto": ["OTHERS", "FACTS"]}


def test_all_unknown_suites_to_plot_are_named(project):
    project.set(evals=EVALS | {"pareto": ["here", "there"]})
    with pytest.raises(UserErrors) as caught:
        project.load()
    assert [error.got for error in caught.value.errors] == ["here", "there"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("base", 1, "evals.base cannot take this value"),
        ("base", "judge", "evals.base names a stage that evals.stages does not list"),
        ("headline", ["facts/easy"], "expected: a mapping of suites to tasks"),
        ("headline", {"fact": "easy"}, "did you mean 'facts'"),
        ("pareto", ["facts"], "expected: two different suites"),
        ("pareto", ["facts", "facts"], "expected: two different suites"),
        ("pareto", {"facts": "others"}, "expected: two different suites"),
        ("pareto", ["facts", "fact"], "evals.pareto names a suite that evals.suites does not list"),
        ("samples", {"number": 3}, "unknown key 'evals.samples.number'"),
        ("samples", {"n": 0}, "expected: a whole number from 1"),
        ("samples", {"suite": "other"}, "evals.samples.suite names a suite that evals.suites does not list"),
    ],
)
def test_mistakes_are_named(project, key, value, message):
    project.set(evals=EVALS | {key: value})
    with pytest.raises(UserError) as caught:
        project.load()
    assert " ".join(message.split()) in " ".join(str(caught.value).split())


def test_a_headline_is_a_task_of_its_suite(project):
    project.harness.tasks = lambda suite, format, options: ["facts", "easy"]
    project.set(evals=EVALS | {"headline": {"facts": "easi"}})
    with pytest.raises(UserError, match=r"(?s)evals.headline names a task that the suite facts lacks.*mean 'easy'"):
        project.run()


def test_a_suites_tasks_have_the_names_of_its_figures(tmp_path):
    rows = tmp_path / "sums.jsonl"
    rows.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    assert Harness().tasks(str(rows), "plain", {}) == ["sums"]
    suite = tmp_path / "pair.yaml"
    tasks = "".join(f"  - {{task: {name}, doc_to_text: '{{{{question}}}}'}}\n" for name in ("one", "two"))
    suite.write_text(
        f"group: pair\ntask:\n{tasks}dataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_target: '{{answer}}'\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    assert set(Harness().tasks(str(suite), "plain", {})) == {"pair", "one", "two"}


def test_an_override_of_stages_or_suites_may_leave_out_what_the_keys_name(project):
    project.set(evals=EVALS | {"base": "base", "headline": {"facts": "easy"}})
    evals = project.load("--evals.stages", "[tuned]", "--evals.suites", "[others]").evals
    assert evals.report.base == "base" and evals.report.headline == {"facts": "easy"}
    assert project.load("--evals.base", "tuned").evals.report.base == "tuned"
