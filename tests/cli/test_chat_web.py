"""`align chat --web`: what it refuses before anything is loaded, and the pages of a real command."""

import json
import threading

import pytest
from served_tiny import get, post, save_gpt

import align
from alignment.cli.share import serve
from alignment.serving.api import http_server
from alignment.serving.web.votes_file import VotesFile


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_gpt(tmp_path_factory.mktemp("run") / "sft/checkpoint")


def refusal(capsys, *arguments) -> str:
    assert align.main(["chat", *map(str, arguments)]) == align.USER_ERROR
    return capsys.readouterr().err


def test_what_is_refused_before_anything_is_loaded(capsys, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(serve.KEY, raising=False)
    assert "the terminal has one checkpoint at once" in refusal(capsys, checkpoint, checkpoint)
    message = refusal(capsys, checkpoint, "--votes", "v.jsonl", "--port", "1")
    assert "--votes, --port belong to --web" in message
    both = refusal(capsys, checkpoint, "--web", "--prompt", "x", "--recommended", "--temperature", "3")
    assert "--prompt cannot be" in both and "--recommended cannot be" in both and "--temperature is out of" in both
    assert "several models are called sft" in refusal(capsys, checkpoint, checkpoint, "--web")
    assert "needs a key" in refusal(capsys, checkpoint, "--web", "--host", "0.0.0.0")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x"}\n')
    assert "is not a file of votes" in refusal(capsys, checkpoint, "--web", "--votes", "rows.jsonl")
    monkeypatch.setattr(serve, "NEEDED", ("no_such_package",))
    assert "pip install 'alignment-pipeline[serve]'" in refusal(capsys, checkpoint, "--web")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_the_command_serves_pages_and_api(checkpoint, tmp_path, monkeypatch, capsys):
    """In this process: the server runs in the test's thread until another thread has asked it and ends it."""
    monkeypatch.chdir(tmp_path)
    found, start = {}, http_server.HttpServer.run

    def run(server, sockets):
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        ready, started = server.ready, threading.Event()
        server.ready = lambda: (ready(), started.set())

        def client():
            assert started.wait(30)
            try:
                found["about"] = get(f"{url}/web/settings").json()
                found["page"] = get(url).status_code
                found["api"] = get(f"{url}/v1/models").json()["data"]
                asked = {"models": ["base", "sft"], "messages": [{"role": "user", "content": "one"}], "max_tokens": 3}
                id = post(url, "/web/comparisons", json=asked).json()["id"]
                for side in "ab":
                    post(url, f"/web/comparisons/{id}/{side}", json={})
                found["vote"] = post(url, f"/web/comparisons/{id}/vote", json={"vote": "tie"}).status_code
            finally:
                server.should_exit = True

        thread = threading.Thread(target=client)
        thread.start()
        start(server, sockets=sockets)
        thread.join()

    monkeypatch.setattr(http_server.HttpServer, "run", run)
    command = ["chat", "--web", f"base={checkpoint}", str(checkpoint), "--port", "0", "--memory", "64M", "--seed", "4"]
    assert align.main([*command, "--temperature", "0.5", "--max_new_tokens", "9"]) == 0
    printed = capsys.readouterr().out
    assert "votes: a new file votes.jsonl" in printed and "chat at http://127.0.0.1:" in printed
    assert found["about"]["defaults"] == {"temperature": 0.5, "seed": 4, "max_tokens": 9}
    assert found["page"] == 200 and [one["id"] for one in found["api"]] == ["base", "sft"]
    assert found["vote"] == 200
    (row,) = map(json.loads, (tmp_path / "votes.jsonl").read_text().splitlines())
    assert row["vote"] == "tie" and row["settings"]["max_tokens"] == 3
    assert align.main(["winrate", "votes.jsonl"]) == 0
    assert "win rate of base over sft: 50.0%" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_votes_train_the_next_stage_at_once(checkpoint, tmp_path, monkeypatch, capsys, stage):
    """A third of the votes names no winner; the account of the stage's rows counts them."""
    monkeypatch.chdir(tmp_path)
    votes = VotesFile("votes.jsonl")
    for number in range(30):
        vote = ("a", "b", "tie")[number % 3]
        good, bad = ([{"role": "assistant", "content": f"{word} {number}"}] for word in ("yes", "no"))
        prompt = [{"role": "user", "content": f"question {number}"}]
        row = {"prompt": prompt, "chosen": good, "rejected": bad, "vote": vote, "replies": {"a": "yes", "b": "no"}}
        votes.append(row | ({"chosen": None, "rejected": None} if vote == "tie" else {}))
    command = [stage, "--model", str(checkpoint), "--data", "votes.jsonl", "--output_dir", "runs/voted", "--quick"]
    assert align.main(command) == 0, capsys.readouterr()
    account = (tmp_path / "runs/voted/data.json").read_text()
    assert "votes without a preferred reply (tie, both bad)" in account and json.loads(account)
