"""Suites that an endpoint cannot answer are refused by name before anything is asked."""

import json
import re
from pathlib import Path

import lm_eval.tasks
import pytest
from completion_server import MODEL, completion

from alignment.errors import UserErrors
from alignment.yaml_text import parse_yaml
from eval.endpoint.address import Endpoint
from eval.endpoint.answerable import GENERATED, GENERATIVE
from eval.endpoint.evaluate_endpoint import evaluate_endpoint
from eval.harness.suite import SUITES, list_suites


def through(server, suites, folder, formats=("plain", "chat"), **options):
    return evaluate_endpoint(Endpoint(server.url, MODEL), suites, list(formats), folder, **options)


def test_suites_that_need_log_probabilities(server, make_suite, tmp_path):
    choices = tmp_path / "choices.jsonl"
    choices.write_text(json.dumps({"question": "Which?", "choices": ["a", "b"], "answer": "a"}) + "\n")
    given = make_suite("given")
    Path(given).write_text(Path(given).read_text().replace(GENERATED, "loglikelihood"))
    with pytest.raises(UserErrors) as caught:
        through(server, [make_suite(), str(choices), given], tmp_path / "runs")
    said = str(caught.value)
    assert len(caught.value.errors) == 2 and f"{choices}'" in said and given in said
    assert "choices (multiple_choice)" in said and "given (loglikelihood)" in said
    assert all(name in said for name in GENERATIVE) and "colours" not in said
    assert not server.requests and not list(tmp_path.glob("runs/*"))


def test_suites_are_refused_by_name_without_their_data(server, tmp_path):
    with pytest.raises(UserErrors, match=r"(?s)'mmlu\?num_fewshot=0' cannot be .*'hellaswag' cannot be") as caught:
        through(server, ["mmlu?num_fewshot=0", "gsm8k", "hellaswag"], tmp_path / "runs")  # no data here
    assert len(caught.value.errors) == 2 and not server.requests


def test_settings_that_a_request_does_not_carry(server, make_suite, tmp_path):
    suites = [
        make_suite("beams", num_beams=4),
        make_suite("begun", "gen_prefix: 'So far'"),
        make_suite("fine", top_k=3),
    ]
    with pytest.raises(UserErrors) as caught:
        through(server, suites, tmp_path / "runs")
    assert len(caught.value.errors) == 2
    assert "num_beams=4 of beams" in str(caught.value) and "gen_prefix of begun" in str(caught.value)
    assert not server.requests
    (record,) = through(server, [suites[1]], tmp_path / "runs", ["plain"], limit=1)  # the fix
    assert [body["prompt"][-14:] for body in server.evaluated()] == ["Answer: So far"] and record["format"] == "plain"


def test_sampled_replies_have_seeds_of_their_own(server, make_suite, tmp_path):
    """Neither the order of requests nor their number at a time changes a seed; repeats of a prompt differ."""
    server.reply = lambda body, chat, attempt: completion(f"said {body.get('seed')}", chat=chat)
    suite = make_suite(more="repeats: 2", do_sample=True, temperature=0.7, top_p=0.9, top_k=0)
    (record,) = through(server, [suite], tmp_path / "1", ["chat"], batch_size=1, limit=3)
    first = server.evaluated()
    assert len({body["seed"] for body in first}) == 6 and "not promised" in record["endpoint"]["sampling"]
    assert all((body["temperature"], body["top_p"], body["top_k"]) == (0.7, 0.9, 0) for body in first)
    through(server, [suite], tmp_path / "8", ["chat"], limit=3)
    again = server.evaluated()[6:]
    assert sorted(map(json.dumps, first)) == sorted(map(json.dumps, again))
    through(server, [suite], tmp_path / "seed", ["chat"], limit=3, seed=1)
    assert not {body["seed"] for body in first} & {body["seed"] for body in server.evaluated()[12:]}


def kinds(name: str) -> set[str]:
    """The output types in the YAML of a suite: the project's own, or lm-eval's."""
    own = SUITES / name
    folders = [own]
    if (own / "packaged.yaml").exists():
        packaged = parse_yaml((own / "packaged.yaml").read_text(), name)
        folders = [Path(lm_eval.tasks.__path__[0]) / folder for folder in packaged["folders"]]
    files = [
        file for folder in folders for file in folder.rglob("*") if file.suffix in ("", ".yaml") and file.is_file()
    ]
    return {kind for file in files for kind in re.findall(r"^ *output_type: (\w+)", file.read_text(), re.MULTILINE)}


def test_the_list_of_suites_is_right():
    assert {name for name in list_suites() if kinds(name) == {GENERATED}} == set(GENERATIVE)
