"""What the top of the report says: what was trained on what, whether it helped, what to do next."""

import json
import re
import shutil
from pathlib import Path

import pytest

import alignment.models
from alignment.pipeline.stage_spec import is_smoke
from alignment.report.content import collect
from alignment.report.first_screen.next_steps import OWN_ARCHITECTURE, next_steps
from alignment.report.first_screen.outcomes import in_sum, outcomes, row_text
from alignment.report.first_screen.trained_on import data_text, model_text, source_name
from alignment.report.render import render
from alignment.report.terminal import summary
from alignment.stages import STAGES

STAGE_NAMES = ("tokenizer", "pretrain", "sft", "reward", "dpo", "ppo")
DATA = {"kind": "sft", "splits": {"train": 9000, "validation": 500}}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, small_run):
    """A finished run with an account of SFT's data, and the folder that its recipes are in."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    shutil.copytree(small_run, folder)
    accounts = [{"source": "world:sft?rows=9000", "split": "train"}, {"source": "world:held", "split": "validation"}]
    (folder / "sft/data.json").write_text(json.dumps(DATA | {"accounts": accounts}))
    replay = {
        "kind": "text",
        "splits": {"train": 4500},
        "accounts": [{"source": "/some/where/books.txt", "split": "train"}],
    }
    (folder / "sft/data-replay.json").write_text(json.dumps(replay))
    change_record(folder, recipe=str(pipeline_folder(tmp_path_factory.mktemp("recipes"))), inputs={"model": "a b"})
    return folder


def pipeline_folder(folder):
    (folder / "pipeline.yaml").write_text("stages: {sft: sft.yaml, dpo: dpo.yaml}\n")
    return folder


def change_record(folder, stage=None, **values):
    path = folder / "pipeline.json"
    record = json.loads(path.read_text())
    (record["stages"][stage] if stage else record).update(values)
    path.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def report(run_dir):
    return collect(run_dir)


def top(html: str) -> str:
    """The text of the page's header."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.split("<header>")[1].split("</header>")[0]).split())


def test_each_stage_has_its_data_its_verdict_and_its_cost(report):
    found = {row["name"]: row for row in outcomes(report)}
    assert list(found) == [STAGES[name].label for name in STAGE_NAMES]
    sft = found["SFT"]
    assert sft["data"] == "9,000 conversations of world:sft, with 4,500 documents of books.txt (replay)"
    assert sft["cost"] == "2M tokens, 1 min 52 s"
    assert found["DPO"]["cost"].startswith("4M tokens, 110k of 4.81M parameters")
    rows = [row for row in report["comparisons"] if (row["a"], row["b"]) == ("pretrain", "sft") and row["headline"]]
    chat = next(row for row in rows if (row["metric"], row["format"]) == ("exact_match", "chat"))
    assert sft["main"] == {"text": row_text(chat), "verdict": "better"}
    assert sft["main"]["text"].startswith(f"chat accuracy +{100 * chat['delta']:.1f} points [")
    gold = next(row for row in rows if row["metric"] == "gold_reward")
    assert sft["others"] == [{"text": row_text(gold), "verdict": "better"}]
    assert sft["also"] == {"better": ["plain accuracy"]}
    bits = next(row for row in rows if row["metric"] == "bits_per_byte")
    assert bits["verdict"] == "worse" and row_text(bits) in sft["worse"]
    assert found["pretrain"]["main"] is None
    assert found["pretrain"]["note"].startswith("the starting point: chat accuracy ")
    card = report["stages"]["reward"]["metrics"]["pairwise"]
    assert found["reward"]["note"].startswith(f"ranks {card['accuracy']:.1%} [")


def test_a_task_is_a_cost_if_the_mean_of_its_suite_is_the_headline(report):
    """Bits per byte of rude text may grow: pipeline.yaml names another task as the headline."""
    worse = [row["task"] for row in report["comparisons"] if row["verdict"] == "worse" and row["b"] == "sft"]
    assert {"clean", "rude"} <= set(worse)
    found = next(row for row in outcomes(report) if row["name"] == "SFT")
    assert [text for text in found["worse"] if "rude" in text or "unsafe" in text] == []
    fallen = [dict(row) for row in report["comparisons"]]
    for row in fallen:
        if (row["b"], row["task"], row["format"]) == ("dpo", "arithmetic", "chat"):
            row.update(verdict="worse", delta=-0.25)
    dpo = next(row for row in outcomes(report | {"comparisons": fallen}) if row["name"] == "DPO")
    assert any(text.startswith("arithmetic, chat \N{MINUS SIGN}25.0 points") for text in dpo["worse"])


def test_the_last_stage_is_compared_with_the_base(report):
    found = in_sum(report)
    assert found["title"] == "PPO against base (pretrain)"
    assert found["items"][0]["text"].startswith("chat accuracy +")
    assert in_sum(report | {"comparisons": []}) is None


def test_the_model_is_described_by_its_size_and_start(report):
    assert model_text(report).startswith("A model of 4.81M parameters, starting from random weights: tokenizer")
    assert "adapters train 110k parameters (2.3%)" in model_text(report)
    stages = {"sft": report["stages"]["sft"] | {"parents": {"model_name_or_path": "/models/gemma-3"}}}
    assert "starting from gemma-3" in model_text(report | {"stages": stages})


def test_next_steps_are_commands_for_this_run(report, run_dir):
    steps = {step["what"]: step["command"] for step in next_steps(report)}
    assert list(steps) == ["Chat", "Compare", "Another seed"]
    assert steps["Chat"] == f"align chat {run_dir}/ppo/checkpoint"
    assert steps["Compare"] == f"align compare {run_dir}/sft/checkpoint {run_dir}/ppo/checkpoint --show 5"
    recipe, other = report["recipe_dir"], f"{run_dir}-seed-1"
    assert steps["Another seed"] == (
        f"align run {recipe} --model 'a b' --seed 1 --output_dir {other} && align report {run_dir} {other}"
    )
    assert all(command in summary(report) for command in steps.values())


def test_next_steps_depend_on_the_checkpoint_and_on_what_was_evaluated(report):
    def steps(**last):
        stages = report["stages"] | {"ppo": report["stages"]["ppo"] | last}
        return {step["what"]: step["command"] for step in next_steps(report | {"stages": stages, "comparisons": []})}

    assert "Compare" not in steps() and " --suite SUITE" in steps()["Evaluate"]
    assert steps(adapter=True)["Merge"].startswith("align merge ")
    assert "--to self-contained" in steps(architecture="alignment_gpt")["Export"]
    moved = report | {"run_dir": "my runs/tiny"}
    assert next_steps(moved)[0]["command"] == "align chat 'my runs/tiny/ppo/checkpoint'"
    assert steps(checkpoint=None)["Chat"].endswith("dpo/checkpoint")
    assert next_steps(report | {"stages": {}}) == []
    assert "Another seed" not in {step["what"] for step in next_steps(report | {"recipe_dir": None})}


def test_a_pipeline_of_which_a_stage_was_run_alone_is_not_offered_again(run_dir, make_run, tmp_path):
    recipe = json.loads((run_dir / "pipeline.json").read_text())["recipe"]
    alone = make_run(tmp_path / "alone", ("sft",), ())
    change_record(alone, recipe=recipe)
    assert collect(alone)["recipe_dir"] is None
    change_record(alone, recipe=str(tmp_path / "moved"))
    assert collect(alone)["recipe_dir"] is None


def test_own_architecture_is_that_of_the_gpt():
    """As its source says: importing it takes seconds."""
    source = Path(alignment.models.__file__).parent / "gpt/configuration_gpt.py"
    assert f'model_type = "{OWN_ARCHITECTURE}"' in source.read_text()


def test_the_page_begins_with_all_of_it(report):
    shown = top(render(report))
    order = ["A model of 4.81M", "PPO against base", "9,000 conversations", "What to do next", "align chat"]
    places = [shown.index(text) for text in order]
    assert places == sorted(places)
    assert "Smoke run" not in shown


def test_a_smoke_run_says_that_its_figures_mean_nothing(run_dir, report):
    stages = {name: stage | {"recipe": {"max_steps": 2}} for name, stage in report["stages"].items()}
    whole = report | {"stages": stages, "smoke": [name for name in STAGE_NAMES if name != "tokenizer"]}
    shown = top(render(whole))
    assert shown.index("Smoke run: the figures mean nothing. Every stage") < shown.index("A model of")
    assert summary(whole).startswith("SMOKE RUN: THE FIGURES MEAN NOTHING")
    again = {step["what"]: step["command"] for step in next_steps(whole)}
    assert "Another seed" not in again and again["Run in full"].endswith(f"--output_dir {run_dir}")
    assert "DPO trained for at most two steps" in summary(whole | {"smoke": ["dpo"]})


@pytest.mark.parametrize(("steps", "smoke"), [(None, False), (-1, False), (0, False), (1, True), (2, True), (3, False)])
def test_a_smoke_stage_is_known_by_its_steps(steps, smoke):
    assert is_smoke({"max_steps": steps}) == smoke
    assert not is_smoke({})


def test_quick_logs_every_step():
    """A stage of two steps that logs every twentieth would show no reward."""
    from alignment.pipeline.stage_spec import QUICK_RECIPE

    assert QUICK_RECIPE["logging_steps"] == 1


def test_an_unfinished_stage_shows_its_status(run_dir, report):
    stages = report["stages"] | {"ppo": report["stages"]["ppo"] | {"status": "failed"}}
    assert next(row for row in outcomes(report | {"stages": stages}) if row["name"] == "PPO")["status"] == "failed"
    assert next_steps(report | {"stages": stages})[0]["command"].endswith("dpo/checkpoint")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/b/rows.jsonl", "rows.jsonl"),
        ("org/data", "org/data"),
        ("world:sft?n=3", "world:sft"),
        ("./folder", "folder"),
    ],
)
def test_names_of_sources(source, name):
    assert source_name(source) == name


def test_many_sources_are_counted():
    data = {"kind": "kto", "splits": {"train": 3}, "sources": ["a.csv", "b.csv", "c.csv", "d.csv"], "mixed": {}}
    assert data_text(data) == "3 labelled replies of a.csv, b.csv and 2 more"
    assert data_text(None) is None
