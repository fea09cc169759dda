"""`align eval` and `align compare`."""

import argparse
import json
from shutil import copytree

import pytest

from alignment.cli.evaluate import compare, eval
from alignment.errors import UserError


def call(verb, *arguments) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.main(parser.parse_args([str(argument) for argument in arguments]))


def test_eval_then_compare(checkpoints, suite, capsys):
    (checkpoints / "sft/stage.json").write_text(json.dumps({"parent": "pretrain"}))
    for stage in ("pretrain", "sft"):
        assert call(eval, checkpoints / stage / "checkpoint", "--suite", suite, "--format", "both", "--limit", 6) == 0
    out = capsys.readouterr().out
    assert "objects" in out and "exact_match" in out and "0.0000" in out
    runs = sorted(path.name for path in (checkpoints / "evals").iterdir())
    assert runs == [
        f"{stage}-objects-{format}-limit-6" for stage in ("pretrain", "sft") for format in ("chat", "plain")
    ]
    record = json.loads((checkpoints / "evals/sft-objects-chat-limit-6/run.json").read_text())
    assert (record["stage"], record["parent"]) == ("sft", "pretrain")

    sides = [checkpoints / stage / "checkpoint" for stage in ("pretrain", "sft")]
    assert call(compare, *sides) == 0
    out = capsys.readouterr().out
    assert "pretrain -> sft" in out and "tied" in out
    assert len([line for line in out.splitlines() if line.startswith("objects")]) == 2
    with pytest.raises(UserError, match="different formats"):
        from eval.comparison.compare import compare as compare_runs

        compare_runs(*(checkpoints / "evals" / f"sft-objects-{format}-limit-6" for format in ("plain", "chat")))


def test_other_options_make_a_variant_and_equal_variants_are_compared(checkpoints, suite, tmp_path, capsys):
    run_dir = tmp_path / "run"
    for stage in ("pretrain", "sft"):
        copytree(checkpoints / stage / "checkpoint", run_dir / stage / "checkpoint")
    (run_dir / "pipeline.json").write_text(json.dumps({"seed": 5}))
    sides = [run_dir / stage / "checkpoint" for stage in ("pretrain", "sft")]
    for side in sides:
        call(eval, side, "--suite", suite, "--format", "plain", "--seed", 5)
        call(eval, side, "--suite", suite, "--format", "plain", "--limit", 2)
    call(eval, sides[0], "--suite", suite, "--format", "plain", "--num_fewshot", 1)
    call(eval, sides[0], "--suite", suite, "--format", "plain", "--seed", 6, "--suite_args", '{"a b": [1]}')
    written = {path.parent.name: json.loads(path.read_text()) for path in run_dir.glob("evals/pretrain-*/run.json")}
    assert {name: record["seeds"]["sampling"] for name, record in written.items()} == {
        "pretrain-objects-plain": 5,
        "pretrain-objects-plain-limit-2": 5,
        "pretrain-objects-plain-num_fewshot-1": 5,
        "pretrain-objects-plain-seed-6-a_b-_1_": 6,
    }
    capsys.readouterr()
    assert call(compare, *sides) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("objects")]
    assert [(line[1 : line.index("objects", 1)], line[-1]) for line in lines] == [
        (["plain"], "24"),
        (["plain", "limit", "2"], "2"),
    ]


def test_missing_checkpoint(tmp_path, suite):
    with pytest.raises(UserError, match="nowhere"):
        call(eval, tmp_path / "nowhere", "--suite", suite)


def test_unknown_suite_comes_before_loading(tmp_path):
    with pytest.raises(UserError, match="tinyworld_gold"):
        call(eval, tmp_path / "nowhere", "--suite", "nonsense")


def test_chat_without_template(checkpoints, suite, tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(checkpoints / "sft/checkpoint").save_pretrained(tmp_path / "bare")
    bare = AutoTokenizer.from_pretrained(checkpoints / "sft/checkpoint")
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="chat template"):
        call(eval, tmp_path / "bare", "--suite", suite, "--format", "chat", "--output_dir", tmp_path)


def test_a_suite_without_the_format(checkpoints, tmp_path):
    with pytest.raises(UserError, match="chat"):
        call(eval, checkpoints / "sft/checkpoint", "--suite", "tinyworld_bpb", "--format", "chat")


def test_an_adapter_with_its_base(checkpoints, tokenizer, suite, tmp_path, capsys):
    """Both sides are run from one load, named after their stages, and compared."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    run = tmp_path / "run"
    copytree(checkpoints / "pretrain/checkpoint", run / "pretrain/checkpoint")
    base = AutoModelForCausalLM.from_pretrained(run / "pretrain/checkpoint")
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(run / "sft/checkpoint")
    tokenizer.save_pretrained(run / "sft/checkpoint")
    (run / "sft/stage.json").write_text(json.dumps({"parent": "pretrain"}))
    sides = [run / stage / "checkpoint" for stage in ("pretrain", "sft")]
    call(eval, sides[1], "--suite", suite, "--with-base", "--limit", 4)
    records = {path.parent.name: json.loads(path.read_text()) for path in run.glob("evals/*/run.json")}
    assert sorted(records) == [
        f"{stage}-objects-{format}-limit-4" for stage in ("pretrain", "sft") for format in ("chat", "plain")
    ]
    assert records["pretrain-objects-plain-limit-4"]["stage"] == "pretrain"
    assert records["sft-objects-plain-limit-4"]["parent"] == "pretrain"
    capsys.readouterr()
    assert call(compare, *sides) == 0
    assert "tied" in capsys.readouterr().out
    with pytest.raises(UserError, match="Only an adapter"):
        call(eval, sides[0], "--suite", suite, "--with-base")


def test_suites_with_the_same_name_do_not_overwrite_each_other(checkpoints, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "q.jsonl").write_text('{"question": "Who?", "answer": "I."}\n')
    with pytest.raises(UserError, match="same name"):
        both = ["--suite", tmp_path / "a/q.jsonl", "--suite", tmp_path / "b/q.jsonl"]
        call(eval, checkpoints / "sft/checkpoint", *both, "--output_dir", tmp_path)


def test_a_run_of_another_suite_with_its_name_is_not_overwritten(checkpoints, tmp_path):
    checkpoint = checkpoints / "sft/checkpoint"
    for folder, question in (("a", "Who?"), ("b", "Where?")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "q.jsonl").write_text(json.dumps({"question": question, "answer": "I."}) + "\n")
    options = ["--format", "plain", "--output_dir", tmp_path / "runs"]
    call(eval, checkpoint, "--suite", tmp_path / "a/q.jsonl", *options)
    written = next((tmp_path / "runs").glob("*/run.json"))
    before = written.read_text()
    with pytest.raises(UserError, match=f"(?s)another suite with that name.*{tmp_path}/a/q.*--output_dir"):
        call(eval, checkpoint, "--suite", tmp_path / "b/q.jsonl", *options)
    assert written.read_text() == before
    call(eval, checkpoint, "--suite", tmp_path / "b/q.jsonl", *options[:-1], tmp_path / "others")  # as advised
    (tmp_path / "a/q.jsonl").write_text('{"question": "When?", "answer": "I."}\n')
    call(eval, checkpoint, "--suite", tmp_path / "a/q.jsonl", *options)  # changed, and not another
    assert written.read_text() != before


def test_a_run_of_another_checkpoint_is_not_overwritten(checkpoints, suite, tmp_path):
    options = ["--suite", suite, "--format", "plain", "--limit", 2, "--output_dir", tmp_path / "runs"]
    others = []
    for folder in ("a", "b"):
        others.append(tmp_path / folder / "model")
        copytree(checkpoints / "sft/checkpoint", others[-1])
    call(eval, others[0], *options)
    call(eval, others[0], *options)
    written = tmp_path / "runs/model-objects-plain-limit-2/run.json"
    before = written.read_text()
    with pytest.raises(UserError, match=f"(?s)another checkpoint with that name.*{others[0]}.*--output_dir"):
        call(eval, others[1], *options)
    assert written.read_text() == before
    run_dir = tmp_path / "run"
    copytree(checkpoints / "sft/checkpoint", run_dir / "sft/checkpoint")
    call(eval, run_dir / "sft/checkpoint", *options[:-2])
    run_dir.rename(tmp_path / "moved")
    call(eval, tmp_path / "moved/sft/checkpoint", *options[:-2])
