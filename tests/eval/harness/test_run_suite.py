"""Running suites: results, and settings that must not change them."""

import json
import random

import numpy
import pandas
import pytest
import torch

from alignment.errors import UserError
from eval.harness.run_suite import evaluate, evaluate_many
from eval.harness.store import load_run

SMALL_WORLD = {"people": 60, "items": 60}


def run(model, tokenizer, suite, folder, format="plain", **options):
    record = evaluate("unsaved", suite, format, folder, loaded=(model, tokenizer), **options)
    return record, pandas.read_parquet(folder / "items.parquet")


@pytest.mark.parametrize("format", ["plain", "chat"])
def test_batch_size_changes_nothing(model, tokenizer, suite, tmp_path, format):
    """Neither padding nor the longer replies of other rows leak into a reply."""
    _, one = run(model, tokenizer, suite, tmp_path / "1", format, batch_size=1)
    _, many = run(model, tokenizer, suite, tmp_path / "8", format, batch_size=8)
    pandas.testing.assert_frame_equal(one, many)
    assert one["gen_len"].nunique() > 1  # rows do finish at different times
    assert not one["truncated"].all()


def test_replies_end_at_the_stop(model, tokenizer, suite, tmp_path):
    _, items = run(model, tokenizer, suite, tmp_path)
    assert not items["output"].str.contains("\n").any()
    assert not items["output"].str.contains("<|", regex=False).any()
    assert (items["gen_len"] <= 12).all()
    assert (items.loc[items["truncated"], "gen_len"] == 12).all()


def test_record_and_items(checkpoints, suite, tmp_path):
    folder = tmp_path / "run"
    record = evaluate(checkpoints / "sft/checkpoint", suite, "chat", folder, stage="sft", parent="pretrain", limit=9)
    assert record == json.loads((folder / "run.json").read_text()) == load_run(folder).record
    assert (record["suite"], record["format"], record["stage"], record["parent"]) == (
        "objects",
        "chat",
        "sft",
        "pretrain",
    )
    assert all(len(record[f"{name}_digest"]) == 64 for name in ("checkpoint", "tokenizer", "template", "suite"))
    (figure,) = record["tasks"]
    items = load_run(folder).items
    assert figure["value"] == pytest.approx(items["score"].mean())
    assert (figure["n"], figure["chance"], figure["centred"]) == (9, 0.0, figure["value"])
    assert items["cluster"].nunique() == 3
    assert items["prompt"].str.startswith("<|im_start|>user\n").all()
    assert sorted(file.name for file in folder.iterdir()) == ["items.parquet", "run.json"]


def test_same_seed_same_samples(model, tokenizer, tmp_path):
    options = {"suite": "tinyworld_gold", "limit": 24, "suite_args": SMALL_WORLD}
    _, first = run(model, tokenizer, folder=tmp_path / "1", seed=1, **options)
    _, again = run(model, tokenizer, folder=tmp_path / "2", seed=1, **options)
    _, other = run(model, tokenizer, folder=tmp_path / "3", seed=2, **options)
    pandas.testing.assert_frame_equal(first, again)
    assert (first["output"] != other["output"]).mean() > 0.9
    assert first["score"].between(-1, 1).all()


def test_an_evaluation_does_not_change_training(model, tokenizer, suite, tmp_path):
    model.train()
    model.model.layers[0].eval()
    states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    run(model, tokenizer, suite, tmp_path)
    assert model.training and model.model.layers[1].training and not model.model.layers[0].training
    assert random.getstate() == states[0] and numpy.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    model.eval()


def test_tinyworld_macro_mean(model, tokenizer, tmp_path):
    record, items = run(model, tokenizer, "tinyworld", tmp_path, suite_args=SMALL_WORLD, limit=3)
    *tasks, macro = record["tasks"]
    assert macro["task"] == "tinyworld" and macro["members"] == [row["task"] for row in tasks]
    assert macro["value"] == pytest.approx(numpy.mean([row["value"] for row in tasks]))
    assert macro["n"] == len(items) == sum(row["n"] for row in tasks)


def test_tinyworld_suite_names_every_family():
    from alignment.data import tinyworld
    from eval.harness.suite import load_suite

    families = set(tinyworld.load("eval", "test", tinyworld.WorldConfig(**SMALL_WORLD))["family"])
    names = {task.rpartition("::")[2] for task in load_suite("tinyworld", "plain", suite_args=SMALL_WORLD).tasks}
    assert names == families


def test_right_answers_score_one():
    """The hooks accept tinyworld's own answers, and only those."""
    from alignment.data import tinyworld
    from eval.suites.tinyworld import hooks

    rows = tinyworld.load("eval", "test", tinyworld.WorldConfig(**SMALL_WORLD))
    assert {hooks.exact_match(row, [f" {row['target']}"])["exact_match"] for row in rows} == {1.0}
    assert {hooks.exact_match(row, ["No."])["exact_match"] for row in rows} == {0.0}
    assert min(hooks.gold_reward(row, [row["target"]])["gold_reward"] for row in rows) > 0.5


@pytest.mark.parametrize("format", ["plain", "chat"])
def test_few_shot_examples_never_hold_the_item(model, tokenizer, tmp_path, format):
    _, items = run(model, tokenizer, "tinyworld", tmp_path, format, suite_args=SMALL_WORLD, limit=4, num_fewshot=2)
    question = "Question: " if format == "plain" else "<|im_start|>user\n"
    asked = (
        items["prompt"].str.split(question, regex=False).map(lambda parts: [part.split("\n")[0] for part in parts[1:]])
    )
    assert (asked.map(len) == 3).all()
    asked = asked.map(lambda lines: [line.removesuffix("<|im_end|>") for line in lines])
    assert all(own not in shots for *shots, own in asked)


def test_few_shot_items_that_are_test_items_are_left_out(monkeypatch):
    from eval.suites.tinyworld import hooks

    row = {"family": "copy", "prompt": "Copy: owl", "target": "Owl."}
    rows = {"eval": [row], "fewshot": [row, row | {"prompt": "Copy: hen"}]}
    monkeypatch.setattr(hooks, "_load", lambda name, split, world: rows[name])
    assert hooks.load_items("copy")["fewshot"]["prompt"][:] == ["Copy: hen"]


def test_bits_per_byte(model, tokenizer, tmp_path):
    """The suite's figure is the model's own cross-entropy over the texts' bytes."""
    record, items = run(model, tokenizer, "tinyworld_bpb", tmp_path, suite_args=SMALL_WORLD | {"seed": 1}, limit=4)
    clean = items[items["task"] == "clean"]
    assert clean["target"].map(lambda text: len(tokenizer(text)["input_ids"])).max() < 512  # one window per text
    bits = 0.0
    for text in clean["target"]:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        bits += float(loss) * (ids.shape[1] - 1) / numpy.log(2)
    figure = next(row for row in record["tasks"] if row["task"] == "clean")
    assert figure["value"] == pytest.approx(bits / clean["target"].map(lambda text: len(text.encode())).sum(), rel=1e-4)
    assert figure["higher_is_better"] is False and figure["se"] > 0


def test_adapter_and_base(checkpoints, tokenizer, suite, tmp_path):
    """An untrained adapter scores as its base; a changed one does not, and has another digest."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = checkpoints / "sft/checkpoint"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj", "v_proj"]))
    records, outputs = [], []
    for name, scale in [("zero", 0.0), ("changed", 2.0)]:
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=scale)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    for checkpoint in (base, tmp_path / "zero", tmp_path / "changed"):
        records.append(evaluate(checkpoint, suite, "plain", tmp_path / f"run-{checkpoint.name}"))
        outputs.append(load_run(tmp_path / f"run-{checkpoint.name}").items["output"].tolist())
    assert outputs[0] == outputs[1] != outputs[2]
    assert len({record["checkpoint_digest"] for record in records}) == 3


def test_many_runs_with_one_load(checkpoints, suite, tmp_path, monkeypatch):
    from eval.harness import run_suite

    loads = []
    load = run_suite.load_checkpoint
    monkeypatch.setattr(run_suite, "load_checkpoint", lambda path: loads.append(path) or load(path))
    records = evaluate_many(
        checkpoints / "sft/checkpoint", [suite, "tinyworld_bpb"], ["plain", "chat"], tmp_path, stage="sft", limit=2
    )
    assert [record["run_id"] for record in records] == [
        "sft-objects-plain",
        "sft-objects-chat",
        "sft-tinyworld_bpb-plain",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(record["run_id"] for record in records)
    assert len(loads) == 1


def test_prompts_without_room_are_refused_on_request(model, tokenizer, tmp_path):
    options = {"suite_args": SMALL_WORLD, "limit": 2, "num_fewshot": 7, "too_long": "refuse"}
    with pytest.raises(UserError, match="do not fit"):
        run(model, tokenizer, "tinyworld", tmp_path, **options)


def test_a_mean_over_tasks_of_which_one_has_no_item_left_is_omitted_and_said(model, tokenizer, tmp_path, caplog):
    record, _ = run(model, tokenizer, "tinyworld", tmp_path, suite_args=SMALL_WORLD, limit=2, num_fewshot=7)
    gone = {entry["task"] for entry in record["left_out"] if entry["n"] == entry["of"]}
    measured = {figure["task"] for figure in record["tasks"]}
    assert gone and measured and not gone & measured and "tinyworld" not in measured
    assert f"items of {len(record['left_out'])} tasks" in caplog.text and "no figure of" in caplog.text


def test_chat_needs_a_template(model, suite, tmp_path, tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        run(model, bare, suite, tmp_path, "chat")


@pytest.mark.parametrize("num_fewshot", [None, 1])
def test_running_does_not_change_the_suite_digest(model, tokenizer, tmp_path, num_fewshot):
    """The pipeline takes the digest before a run to see whether the run is needed."""
    from eval.harness.suite import load_suite, suite_digest

    options = {"num_fewshot": num_fewshot, "suite_args": SMALL_WORLD}
    before = suite_digest(load_suite("tinyworld", "chat", **options))
    record, _ = run(model, tokenizer, "tinyworld", tmp_path, "chat", limit=1, **options)
    assert record["suite_digest"] == before


def test_an_interrupted_run_is_not_a_run(tmp_path):
    (tmp_path / "items.parquet").write_text("")
    with pytest.raises(UserError, match="Not an eval run"):
        load_run(tmp_path)
