"""Runs of an endpoint are compared with those of checkpoints, and what is unknown is said."""

import argparse
import json
import re
import shlex
from pathlib import Path
from shutil import copytree

import pytest
from completion_server import MODEL, completion, model_replies

from alignment.cli.evaluate import compare, eval
from alignment.errors import UserError


def call(verb, *arguments) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint_against_its_own_endpoint(server, checkpoints, model, tokenizer, make_suite, there, capsys):
    """Nothing changed, in both formats; the endpoint's template is unknown, and its runs are found by name."""
    server.reply = model_replies(model, tokenizer)  # the weights of pretrain
    suite, name = make_suite(), f"{server.url}#{MODEL}"
    asked = ["--suite", suite, "--num_fewshot", 1, "--limit", 3]
    assert call(eval, "--endpoint", server.url, "--model", MODEL, *asked) == 0
    out = capsys.readouterr().out
    assert f"{name}, unknown: weights" in out and "exact_match" in out
    folder = there / "local"
    call(eval, checkpoints / "pretrain/checkpoint", *asked, "--output_dir", folder)
    capsys.readouterr()
    files = [f"--{kind}={there}/found.{kind}" for kind in ("md", "json", "html")]
    assert call(compare, folder, name, "--show", 1, *files) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line.startswith("colours")]
    assert [line[1] for line in lines] == ["chat", "plain"] and all("tied" in line for line in lines)
    assert "no item changed" in out
    said = f"{name}, an endpoint: its weights, tokenizer and chat template are unknown"
    assert all(said in text for text in (out, (there / "found.md").read_text(), (there / "found.html").read_text()))
    rows = json.loads((there / "found.json").read_text())["comparisons"]
    assert [row["endpoints"] for row in rows] == [{"b": name}] * 2


def test_two_models_of_one_server(server, make_suite, there, capsys):
    """Runs of another model have a name of their own; changed items show both outputs."""
    suite = make_suite()
    for model, said in (("red", "red"), ("org/blue 7b", "blue")):
        server.reply = lambda body, chat, attempt, said=said: completion(said, chat=chat, tokens=1)
        server.respond = lambda handler, route, body, attempt: server.reply(body, "chat" in route, attempt)
        call(eval, "--endpoint", server.url, "--model", model, "--suite", suite, "--format", "chat")
    call(compare, f"{server.url}#red", f"{server.url}#org/blue 7b", "--show", 4)
    out = capsys.readouterr().out
    assert "red@127.0.0.1" in out and "org-blue-7b@127.0.0.1" in out and "regressed: colours 0" in out
    assert out.count("an endpoint: its weights") == 2


def test_an_endpoint_that_was_not_evaluated(server, checkpoints, make_suite, there):
    name = f"{server.url}#{MODEL}"
    for suite in ([], ["--suite", make_suite()]):
        with pytest.raises(UserError, match=f"align eval --endpoint {server.url} --model {MODEL}"):
            call(compare, name, checkpoints / "sft/checkpoint", *suite)
    assert not server.requests and not list(there.rglob("run.json"))


def test_options_that_do_not_go_together(server, checkpoints, there):
    endpoint = ["--endpoint", server.url, "--suite", "gsm8k"]
    mixed = [checkpoints / "sft/checkpoint", *endpoint, "--model", MODEL, "--with-base", "--chat_template", "x.jinja"]
    with pytest.raises(UserError) as caught:
        call(eval, *mixed)
    assert all(word in str(caught.value) for word in ("a checkpoint", "--with-base", "applies its own chat template"))
    for given, said in (
        (["--suite", "gsm8k"], "Nothing to evaluate"),
        (["x", "--suite", "gsm8k", "--model", "m", "--timeout", 1], "--model, --timeout without --endpoint"),
        (endpoint, "needs the name of a model"),
        ([*endpoint, "--model", " "], "needs the name of a model"),
        ([*endpoint, "--model", MODEL, "--timeout", 0], "timeout is out of range"),
        ([*endpoint, "--model", MODEL, "--batch_size", 0], "batch_size is out of range"),
    ):
        with pytest.raises(UserError, match=said):
            call(eval, *given)
    assert not server.requests


@pytest.mark.slow
def test_the_commands_of_the_docs(server, checkpoints, model, tokenizer, there, capsys):
    """As docs/suites.md has them, with this server's address, its model and two items per task."""
    page = Path(__file__).parents[3] / "docs/suites.md"
    (block,) = re.findall(r"```bash\n(align eval --endpoint.*?)```", page.read_text(), flags=re.DOTALL)
    server.reply = model_replies(model, tokenizer)
    copytree(checkpoints / "pretrain/checkpoint", there / "runs/tiny/sft/checkpoint")
    block = block.replace("http://127.0.0.1:8000/v1", server.url).replace("#sft", f"#{MODEL}")
    for line in block.replace("--model sft", f"--model {MODEL}").splitlines():
        _, verb, *arguments = shlex.split(line)
        assert call({"eval": eval, "compare": compare}[verb], *arguments, "--limit", 2) == 0
    out = capsys.readouterr().out
    assert f"sft -> {MODEL}@127.0.0.1" in out and out.count("+0.0000") >= 32 and "worse  " not in out
