"""Folders that hold a foreign, damaged or older eval run: a UserError that names the file, never a traceback."""

import json
import shutil

import pandas
import pytest
from stored_runs import make_run

from alignment.errors import UserError
from eval.comparison.compare import compare_pairs
from eval.comparison.find import match

SCORES = {"sums": [1, 0, 1, 1]}
NEEDED = ("suite", "format", "stage", "tasks", "settings", "seeds", "suite_digest")


def edited(**changes):
    """Change keys of run.json; None removes a key."""

    def edit(run):
        file = run / "run.json"
        record = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))

    return edit


def items(content):
    """Replace items.parquet, and forget its digest, as runs of earlier versions have none."""

    def edit(run):
        (run / "items.parquet").unlink()
        if isinstance(content, pandas.DataFrame):
            content.to_parquet(run / "items.parquet")
        elif content is not None:
            (run / "items.parquet").write_text(content)
        edited(items=None)(run)

    return edit


def folder_as_record(run):
    (run / "run.json").unlink()
    (run / "run.json").mkdir()


DAMAGE = {
    **{f"without {key}": edited(**{key: None}) for key in NEEDED},
    **{f"a list as {key}": edited(**{key: [1]}) for key in (*NEEDED, "variant", "versions")},
    "a number as suite": edited(suite=3),
    "a number as left_out": edited(left_out=5),
    "a text in left_out": edited(left_out=["x"]),
    "left_out without items": edited(left_out=[{"task": "sums", "n": 1, "of": 4}]),
    "an entry of tasks without a metric": edited(tasks=[{"task": "sums"}]),
    "another program's record": lambda run: (run / "run.json").write_text('{"results": {}, "config": {}}'),
    "an empty record": lambda run: (run / "run.json").write_text("{}"),
    "text as record": lambda run: (run / "run.json").write_text("run"),
    "a folder as record": folder_as_record,
    "no items": items(None),
    "text as items": items("items"),
    "an empty file of items": items(""),
    "foreign items": items(pandas.DataFrame({"a": [1]})),
    "items without scores": items(pandas.DataFrame({"task": ["sums"], "metric": ["exact_match"], "item_id": ["1"]})),
    "damaged items": lambda run: (run / "items.parquet").write_text("items"),
}


@pytest.mark.parametrize("side", ["the run's folder", "a folder of runs"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_is_named(damage, side, tmp_path):
    whole, run = make_run(tmp_path / "a/run", "sft", SCORES), make_run(tmp_path / "b/run", "dpo", SCORES)
    assert compare_pairs(match(whole, [run])[0])
    damage(run)
    given = run if side == "the run's folder" else run.parent
    for sides in ((whole, given), (given, whole)):
        with pytest.raises(UserError, match="b/run"):
            compare_pairs(match(sides[0], [sides[1]])[0])


def test_another_programs_run_in_a_folder_of_runs_is_passed_over(tmp_path, caplog):
    whole, run = make_run(tmp_path / "a/run", "sft", SCORES), make_run(tmp_path / "b/run", "dpo", SCORES)
    other = tmp_path / "b/wandb"
    other.mkdir()
    (other / "run.json").write_text('{"project": "x"}')
    assert compare_pairs(match(whole, [run.parent])[0])
    assert str(other) in caplog.text


def test_a_run_directory_without_evaluations_says_what_to_do(tmp_path):
    whole = make_run(tmp_path / "a/run", "sft", SCORES)
    shutil.copytree(whole, tmp_path / "b/not-evals/run")
    with pytest.raises(UserError, match="align eval"):
        match(whole, [tmp_path / "b"])
