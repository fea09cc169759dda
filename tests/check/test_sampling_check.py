"""`align check` of a sample stage: what it will cost, and of a stage that trains on its rows."""

import json

import pytest
import yaml
from check_cases import DATA, foreign_tokenizer, write_model

import align
from alignment.estimate import compute


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A pipeline of a sample stage and of DPO on its rows, from a model that is no more than its config."""
    monkeypatch.setattr(compute, "measured_flops", lambda *_: 1e11)  # takes half a second
    folder = tmp_path / "recipes"
    folder.mkdir()
    rows = folder / "prompts.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in DATA["prompts"]()))
    model = str(write_model(tmp_path / "model", foreign_tokenizer()))
    sample = {"model_name_or_path": model, "dataset_name": str(rows), "num_generations": 3, "max_completion_length": 16}
    write(folder, "sample", sample | {"write": "two"})
    columns = {"reply_a": "chosen", "reply_b": "rejected"}
    reader = {"model_name_or_path": model, "dataset_name": "sample", "max_length": 128, "columns": columns}
    write(folder, "dpo-2", reader)
    write(folder, "pipeline", {"name": "x", "stages": {"sample": "sample.yaml", "dpo-2": "dpo-2.yaml"}})
    return folder


def write(folder, name: str, content: dict) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def check(capsys, *arguments: str) -> tuple[int, str]:
    code = align.main(["check", *arguments, "--offline"])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_the_cost_of_sampling_is_estimated_before_it(recipes, capsys):
    code, printed = check(capsys, str(recipes), "--output_dir", str(recipes / "runs"))
    assert code == 0, printed
    assert "replies 120 of at most 16 tokens (40 prompts, 3 each)" in printed
    assert "tokens  at most 1,920 generated, about " in printed
    assert ": fits, with a batch of up to 1024 or more" in printed and "if replies have full length" in printed
    assert "not checked: its rows come from sample, and are checked when they are there" in printed


def test_prompts_that_leave_no_room_do_not_count(recipes, capsys):
    limit = ["--max_completion_length", "250"]  # of 256 positions
    _, printed = check(capsys, str(recipes / "sample.yaml"), "--output_dir", str(recipes / "runs"), *limit)
    assert "about 720 read" in printed  # 120 prompts of 6 tokens at most


def test_a_judge_without_a_chat_template_is_found_before_its_rows_are_there(recipes, tmp_path, capsys):
    mute = str(write_model(tmp_path / "mute", foreign_tokenizer(template=None)))
    pairs = {"columns": {"reply_a": "chosen", "reply_b": "rejected"}, "dataset_name": "sample"}
    write(recipes, "judge", {"judge_model_path": mute} | pairs)
    write(recipes, "pipeline", {"name": "x", "stages": {"sample": "sample.yaml", "judge": "judge.yaml"}})
    code, printed = check(capsys, str(recipes), "--output_dir", str(recipes / "runs"))
    assert code == 1 and "error: judge: the judge mute has no chat template" in printed


def test_rows_of_the_wrong_kind_are_found_before_they_are_there(recipes, capsys):
    dpo = yaml.safe_load((recipes / "dpo-2.yaml").read_text())
    write(recipes, "dpo-2", dpo | {"columns": {}})
    code, printed = check(capsys, str(recipes), "--output_dir", str(recipes / "runs"))
    assert code == 1 and "names rows of another kind than dpo-2 reads" in printed


@pytest.fixture
def judged(recipes, tmp_path):
    """The pipeline with a judge of the sampled pairs, a local model by two principles and an endpoint."""
    write(recipes, "principles", [{"name": name, "prefer": f"Which is more {name}?"} for name in ("honest", "kind")])
    endpoint = "reward_models.api_judge:api?base_url=http://127.0.0.1:9/v1&model=m"
    keys = {"columns": {"reply_a": "chosen", "reply_b": "rejected"}, "dataset_name": "sample", "judges": [endpoint]}
    keys |= {"judge_model_path": str(tmp_path / "model"), "principles": str(recipes / "principles.yaml")}
    write(recipes, "judge", keys | {"max_requests": 100})
    write(recipes, "pipeline", {"name": "x", "stages": {"sample": "sample.yaml", "judge": "judge.yaml"}})
    return recipes


def test_the_questions_of_a_judge_are_counted_before_its_rows_are_there(judged, capsys):
    code, printed = check(capsys, str(judged), "--output_dir", str(judged / "runs"))
    printed = printed.split("== judge")[1]
    assert code == 0, printed
    assert "asked   at most 160 questions to each model (40 rows x 2 positions x 2 principles)" in printed
    assert "calls   at most 160 requests to endpoints, limited to 100 by max_requests" in printed
    assert "read if all replies have full length" in printed and "generated" not in printed
    assert "time    about " in printed and "memory  about " in printed


def test_the_questions_of_a_critic(recipes, tmp_path, capsys):
    write(recipes, "principles", [{"name": "kind", "critique": "What is rude?", "revise": "Be kind."}])
    rows = recipes / "sft.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in DATA["sft"]()))
    keys = {"model_name_or_path": str(tmp_path / "model"), "principles": str(recipes / "principles.yaml"), "rounds": 2}
    write(recipes, "critique", keys | {"dataset_name": str(rows), "max_completion_length": 16})
    code, printed = check(capsys, str(recipes / "critique.yaml"), "--output_dir", str(recipes / "runs/critique"))
    assert code == 0, printed
    assert "asked   160 questions to each model (40 rows x 2 rounds x 2 answers)" in printed
    assert "at most 2,560 generated" in printed and "calls" not in printed


@pytest.mark.slow
def test_ratings_of_rows_that_are_there(judged, capsys):
    write(judged, "raters", [{"name": "kind", "rate": "How kind?"}])
    rows = judged / "pairs.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in DATA["preference"]()))
    judge = yaml.safe_load((judged / "judge.yaml").read_text())
    own = {"dataset_name": str(rows), "columns": {}, "ask": "ratings", "principles": str(judged / "raters.yaml")}
    write(judged, "judge", judge | own)
    _, printed = check(capsys, str(judged / "judge.yaml"), "--output_dir", str(judged / "runs/judge"))
    assert "asked   80 questions to each model (40 rows x 2 replies x 1 principle)" in printed, printed
