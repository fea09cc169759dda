"""benchmarks/seeds.py: figures over training seeds, by hand values and from reports; repeated, it runs nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks/seeds.py"


@pytest.fixture(scope="module")
def seeds():
    spec = importlib.util.spec_from_file_location("seeds_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(seed, *, sft=0.4, dpo=0.5, item_se=0.02, digest="a", accuracy=0.8):
    shared = {"suite": "tinyworld_gold", "task": "tinyworld_gold", "format": "chat", "metric": "gold_reward"}
    shared |= {"variant": {}, "headline": True, "se": item_se}
    evals = [shared | {"stage": "sft", "value": sft}, shared | {"stage": "dpo", "value": dpo}]
    evals.append(shared | {"stage": "dpo", "value": 0.1, "task": "refusal", "headline": False})
    return {
        "seed": seed,
        "evals": evals,
        "comparisons": [shared | {"a": "sft", "b": "dpo", "delta": dpo - sft}],
        "eval_runs": [
            {"stage": "sft", "suite": "tinyworld_gold", "format": "chat", "suite_digest": digest, "seeds": {}}
        ],
        "reward_cards": {"reward": {"accuracy": accuracy, "length_baseline": 0.6}},
    }


def test_hand_values(seeds):
    # Mean 2, deviations -1, 0, 1: sd 1; t(0.975, 2) = 4.302653, over the root of 3.
    found = seeds.over_seeds([1.0, 3.0, 2.0])
    assert found == pytest.approx({"mean": 2.0, "sd": 1.0, "low": 2 - 2.4841377, "high": 2 + 2.4841377})
    # Two seeds: t(0.975, 1) = 12.7062, sd = root of 2, over the root of 2.
    assert seeds.over_seeds([4.0, 6.0])["high"] == pytest.approx(5 + 12.706205)


def test_one_seed_has_no_interval(seeds):
    assert seeds.over_seeds([4.0]) == {"mean": 4.0, "sd": None, "low": None, "high": None}
    figures = seeds.summarise([report(0)])
    assert "no interval" in seeds.text(figures, "tiny")
    assert seeds.targets(figures)[1] is False


def test_differences_are_paired_by_seed(seeds):
    """Scores that vary much between seeds, differences that do not."""
    reports = [report(seed, sft=sft, dpo=sft + 0.1) for seed, sft in enumerate((0.1, 0.5, 0.9))]
    figures = seeds.summarise(reports)
    (change,) = figures["differences"]
    assert change["values"] == pytest.approx([0.1] * 3) and change["sd"] == pytest.approx(0)
    sft = figures["scores"][0]
    assert (sft["stage"], sft["mean"], sft["sd"]) == ("sft", pytest.approx(0.5), pytest.approx(0.4))
    assert seeds.targets(figures)[1] is True
    reports[2] = report(2, sft=0.9, dpo=0.8)
    wanted, met = seeds.targets(seeds.summarise(reports))
    assert list(wanted.values()) == [0.0] and not met


def test_rows_that_a_report_lacks_are_left_out_and_tasks_are_asked_for(seeds):
    reports = [report(0), report(1)]
    assert [row["task"] for row in seeds.summarise(reports, "all")["scores"]].count("refusal") == 1
    assert "refusal" not in {row["task"] for row in seeds.summarise(reports)["scores"]}
    reports[1]["evals"] = reports[1]["evals"][:1]
    assert [row["stage"] for row in seeds.summarise(reports, "all")["scores"]] == ["sft"]
    reports[1]["evals"][0]["value"] = None  # NaN, as report.json writes it
    assert seeds.summarise(reports)["scores"] == []


def test_reward_models_are_compared_with_length_by_seed(seeds):
    figures = seeds.summarise([report(0, accuracy=0.7), report(1, accuracy=0.9)])
    rows = {row["figure"]: row["values"] for row in figures["reward_models"]}
    assert rows["difference"] == pytest.approx([0.1, 0.3])
    assert "Reward models" in seeds.text(figures, "tiny")


def test_the_tables_are_in_the_units_of_the_report(seeds):
    reports = [report(0), report(1)]
    for number, one in enumerate(reports):
        one["evals"] = [one["evals"][0] | {"suite": "s", "task": "s", "metric": "acc", "value": 0.5 + 0.1 * number}]
    text = " ".join(seeds.text(seeds.summarise(reports), "tiny").split())
    assert "| SFT | accuracy, chat (%) | 55.0 | 7.1 | [\N{MINUS SIGN}8.5, 118.5] | 2.0 |" in text
    assert "| DPO - SFT | gold reward, chat | +0.100 |" in text


def test_other_items_are_told(seeds):
    same, other = [report(0), report(1)], [report(0), report(1, digest="b")]
    assert "differ between the seeds" not in seeds.text(seeds.summarise(same), "tiny")
    assert "differ between the seeds" in seeds.text(seeds.summarise(other), "tiny")


def test_evaluations_keep_their_seed_unless_told_otherwise(seeds):
    recipe = PATH.parents[1] / "recipes/tiny"
    words = seeds.arguments(recipe, Path("out"), 3, ["--sft.dataset_name", "tinyworld:sft?seed={seed}"], False)
    assert words[words.index("--seed") + 1] == "3" and words[-2:] == ["--evals.seed", "0"]
    assert "tinyworld:sft?seed=3" in words
    assert seeds.arguments(recipe, Path("out"), 3, ["--evals.seed={seed}"], False)[-1] == "--evals.seed=3"


def test_repeated_it_runs_nothing_and_says_the_same(seeds, tmp_path, monkeypatch, capfd):
    def call(*more):
        output = tmp_path / "figures.json"
        words = ["--quick", "--output_dir", str(tmp_path / "runs"), "--output", str(output), *more]
        monkeypatch.setattr(sys, "argv", ["seeds.py", *words])
        seeds.main()
        said = capfd.readouterr().out
        result = json.loads(said.splitlines()[-1])
        assert json.loads(output.read_text()) == result and {"targets", "met", "machine"} <= set(result)
        return result["figures"], said

    first, _ = call()
    (row,) = first["scores"]
    assert first["seeds"] == [0, 1] and first["same_items"]
    assert row["values"][0] != row["values"][1]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/stage.json")}
    again, said = call()
    assert again == first
    assert said.count("up to date, skipped (recipe and parents unchanged)") == len(made) == 4
    assert {path: path.stat().st_mtime_ns for path in made} == made
