"""An adapter and its base from one load: `align eval --with-base`, and `align compare` without existing runs."""

import argparse
import json
import shutil
from pathlib import Path
from shutil import copytree

import pandas
import pytest
import torch
from lm_eval.api.instance import Instance
from saved_adapters import save_adapter
from transformers import AutoConfig, AutoModelForCausalLM

from alignment.cli.evaluate import compare
from alignment.errors import UserError
from alignment.models import loading
from eval.comparison.find import match
from eval.harness.lm import CausalLM
from eval.harness.place import Place
from eval.harness.prepare import evaluate_missing
from eval.harness.run_suite import evaluate
from eval.harness.store import load_run
from eval.harness.with_base import base_of, evaluate_with_base

TEXTS = [("The hat is", " red"), ("The goat saw the hen. The fox", " saw it"), ("", "The owl sits.")]
REQUESTS = [Instance("loglikelihood", {}, pair, number, ("t", number, 1)) for number, pair in enumerate(TEXTS)]


def call(*arguments) -> int:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return compare.main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The names of the checkpoints whose weights are loaded."""
    found, load = [], loading.load_trainable
    monkeypatch.setattr(loading, "load_trainable", lambda *args, **kw: found.append(str(args[0])) or load(*args, **kw))
    return found


@pytest.fixture
def models(checkpoints, adapter, tmp_path, monkeypatch) -> Path:
    """A folder with a base and an adapter on it, next to the working directory."""
    monkeypatch.chdir(tmp_path)
    copytree(checkpoints / "pretrain/checkpoint", tmp_path / "models/base")
    copytree(adapter, tmp_path / "models/adapter")
    config = tmp_path / "models/adapter/adapter_config.json"
    settings = json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "models/base")}
    config.write_text(json.dumps(settings))
    return Path("models")


def items(folder: Path):
    return load_run(folder).items


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request, checkpoints, tokenizer, tmp_path_factory) -> Path:
    if not request.param:
        return checkpoints / "pretrain/checkpoint"
    folder = tmp_path_factory.mktemp("tied") / "pretrain/checkpoint"
    config = AutoConfig.from_pretrained(checkpoints / "pretrain/checkpoint", tie_word_embeddings=True)
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "options", "from_one"),
    [
        ("an adapter", {}, True),
        ("with trained rows", {"trainable_token_indices": [2, 40]}, True),
        ("over another", {"earlier": {}}, True),
        ("over one with rows", {"earlier": {"trainable_token_indices": [40]}}, False),
        ("over one with biases", {"earlier": {"bias": "all"}}, False),
        ("with new rows", {"grown_to": 400}, False),
    ],
)
def test_the_base_scores_as_when_evaluated_alone(
    kind, options, from_one, base, tokenizer, suite, loads, tmp_path, caplog
):
    """From the adapter's model with the adapter disabled, or loaded again if that would be another model."""
    adapter = tmp_path / "run/sft/checkpoint"
    save_adapter(base, tokenizer, adapter, **options)
    both, alone = tmp_path / "both", tmp_path / "alone"
    with caplog.at_level("INFO"):
        records = evaluate_with_base(
            adapter,
            [suite],
            ["plain", "chat"],
            Place("sft", "pretrain", both, 0),
            Place("pretrain", None, both, 0),
            limit=4,
        )
    assert len(loads) == (1 if from_one else 2)
    assert ("the base is loaded separately" in caplog.text) is not from_one
    names = [f"{stage}-objects-{format}" for stage in ("sft", "pretrain") for format in ("plain", "chat")]
    assert [record["run_id"] for record in records] == names
    for record in records[2:]:
        expected = evaluate(base, suite, record["format"], alone / record["format"], limit=4)
        assert record["checkpoint_digest"] == expected["checkpoint_digest"] != records[0]["checkpoint_digest"]
        pandas.testing.assert_frame_equal(items(both / record["run_id"]), items(alone / record["format"]))
    unmerged = loading.load_trainable(adapter, "causal-lm").eval(), loading.load_tokenizer(adapter)
    evaluate(adapter, suite, "plain", alone / "adapter", limit=4, loaded=unmerged)
    outputs = items(both / names[0])["output"].tolist()
    assert outputs == items(alone / "adapter")["output"].tolist() != items(both / names[2])["output"].tolist()
    merged = loading.load_causal_lm(adapter)  # rounds otherwise: greedy replies may differ at a near tie
    scores = [[score for score, _ in CausalLM(*side, 4).loglikelihood(REQUESTS)] for side in (unmerged, merged)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4, abs=1e-4)


def test_adapter_disabled_is_the_base_bit_for_bit(checkpoints, adapter, tokenizer):
    base = AutoModelForCausalLM.from_pretrained(checkpoints / "pretrain/checkpoint").eval()
    model = loading.load_trainable(adapter, "causal-lm").eval()
    with torch.no_grad():
        expected = CausalLM(base, tokenizer, 4).loglikelihood(REQUESTS)
        changed = CausalLM(model, tokenizer, 4).loglikelihood(REQUESTS)
        with base_of(model, str(checkpoints / "pretrain/checkpoint")):
            lm = CausalLM(model, tokenizer, 4)
            assert lm.loglikelihood(REQUESTS) == expected
            assert lm.stop_ids == CausalLM(base, tokenizer, 4).stop_ids
        assert CausalLM(model, tokenizer, 4).loglikelihood(REQUESTS) == changed != expected


def test_compare_evaluates_base_and_adapter_once(models, suite, loads, capsys):
    sides = [models / "base", models / "adapter"]
    assert call(*sides, "--suite", suite, "--limit", 6) == 0
    assert loads == [str(sides[1])]
    first = capsys.readouterr().out
    assert "base -> adapter" in first and len([row for row in first.splitlines() if row.startswith("objects")]) == 2
    for stage, side in zip(("base", "adapter"), sides, strict=True):
        for format in ("plain", "chat"):
            evaluate(side, suite, format, Path("alone") / stage / format, limit=6)
            found = items(Path(f"runs/evals/{stage}-objects-{format}-limit-6"))
            pandas.testing.assert_frame_equal(found, items(Path("alone") / stage / format))
    loads.clear()
    assert call(*sides, "--suite", suite, "--limit", 6) == 0
    assert loads == [] and capsys.readouterr().out == first
    assert call(*sides, "--suite", suite) == 0  # what was evaluated is compared, however many items it was
    assert loads == []


def test_the_other_sides_runs_decide_which_are_missing(models, suite, loads, capsys):
    evaluate(models / "base", suite, "plain", "runs/evals/base-objects-plain", stage="base", limit=None)
    loads.clear()
    assert call(models / "base", models / "adapter", "--suite", suite) == 0
    assert loads == [str(models / "adapter")]
    assert sorted(path.name for path in Path("runs/evals").iterdir()) == [
        "adapter-objects-plain",
        "base-objects-plain",
    ]


def test_a_base_without_template_is_compared_in_plain(models, suite, loads, capsys):
    (models / "base/chat_template.jinja").unlink()
    assert call(models / "base", models / "adapter", "--suite", suite, "--limit", 2) == 0
    assert loads == [str(models / "adapter")]
    out = capsys.readouterr().out
    assert len([row for row in out.splitlines() if row.startswith("objects")]) == 1
    assert "not compared: objects chat limit 2" in out
    with pytest.raises(UserError, match="needs a tokenizer with a chat template"):
        call(models / "base", models / "adapter", "--suite", suite, "--limit", 3, "--format", "chat")


def test_checkpoints_that_are_not_base_and_adapter_are_loaded_each(models, checkpoints, suite, loads):
    copytree(checkpoints / "sft/checkpoint", models / "other")
    sides = [models / "other", models / "adapter", models / "base"]
    assert call(*sides, "--suite", suite, "--limit", 2, "--format", "plain") == 0
    assert loads == list(map(str, sides))


def test_runs_with_the_same_name_are_not_overwritten(models, suite, loads):
    (models / "more").mkdir()
    copytree(models / "base", models / "more/base")
    with pytest.raises(UserError, match="another checkpoint with that name"):
        call(models / "base", models / "more/base", "--suite", suite, "--limit", 2)
    assert loads == [] and not Path("runs").exists()
    evaluate(models / "base", suite, "plain", "runs/evals/base-objects-plain-limit-2", variant={"limit": 2}, limit=2)
    with pytest.raises(UserError, match="another checkpoint with that name"):
        call(models / "more/base", models / "adapter", "--suite", suite, "--limit", 2)


def test_options_of_the_evaluation_need_a_suite(models):
    with pytest.raises(UserError, match="--limit and --chat_template apply"):
        call(models / "base", models / "adapter", "--limit", 2)


@pytest.mark.parametrize("changed", ["the weights of one", "the suite", "nothing"])
def test_runs_of_other_weights_or_rows_do_not_count(changed, models, checkpoints, loads, tmp_path, capsys, caplog):
    copytree(checkpoints / "sft/checkpoint", models / "other")
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "Who?", "choices": ["red", "blue"], "answer": "red"}\n')
    sides = [models / "other", models / "base"]
    arguments = (*sides, "--suite", asked, "--format", "plain")
    call(*sides, "--suite", asked)
    for side in sides:
        evaluate(side, str(asked), "plain", Path(f"runs/evals/{side.name}-asked-plain"), stage=side.name)
    before = {side: load_run(f"runs/evals/{side.name}-asked-plain").record for side in sides}
    loads.clear()
    caplog.clear()
    if changed == "the suite":
        asked.write_text('{"question": "Where?", "choices": ["red", "blue"], "answer": "red"}\n')
    elif changed != "nothing":
        shutil.copy(models / "other/model.safetensors", models / "base/model.safetensors")
    wanted = {"the suite": sides, "nothing": []}.get(changed, sides[1:])
    capsys.readouterr()
    assert call(*arguments) == 0
    assert loads == [str(side) for side in wanted]
    after = {side: load_run(f"runs/evals/{side.name}-asked-plain").record for side in sides}
    assert [side for side in sides if after[side] != before[side]] == wanted
    assert ("does not count" in caplog.text) is bool(wanted)
    shown = capsys.readouterr().out
    assert "asked  chat" not in shown, "--format plain asks for no other"
    first, other = map(str, sides)
    outdated = evaluate_missing(first, [other], [str(asked)], ["plain"])
    formats = {run.record["format"] for pair in match(first, [other], ["asked"], outdated)[0] for run in pair}
    assert formats == ({"plain", "chat"} if changed == "nothing" else {"plain"}), "nor do runs that do not count"
    if changed == "the weights of one":
        assert "+0.0000" in shown


def test_a_run_of_another_suite_with_its_name_stays(models, loads, tmp_path):
    for folder, question in (("n1", "Who?"), ("n2", "Where?")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(json.dumps({"question": question, "answer": "red"}) + "\n")
    sides = (models / "base", models / "base", "--format", "plain", "--suite")
    assert call(*sides, tmp_path / "n1/test.jsonl") == 0
    before = Path("runs/evals/base-test-plain/run.json").read_text()
    with pytest.raises(UserError, match="another suite with that name"):
        call(*sides, tmp_path / "n2/test.jsonl")
    assert Path("runs/evals/base-test-plain/run.json").read_text() == before
    (tmp_path / "n1").rename(tmp_path / "n3")
    (tmp_path / "n3/test.jsonl").rename(tmp_path / "n3/new.jsonl")
    (tmp_path / "n3/new.jsonl").rename(tmp_path / "n2/test.jsonl")
    loads.clear()
    assert call(*sides, tmp_path / "n2/test.jsonl") == 0 and loads == [], "the same questions elsewhere"
