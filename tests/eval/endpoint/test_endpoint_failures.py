"""Outages, refusals and rubbish: retried or refused by name, and nothing half-written."""

import json
import logging
import re
import signal
import threading
import time

import pandas
import pytest
from completion_server import MODEL, completion
from judge_server import KEY

from alignment.errors import UserError
from eval.endpoint.address import Endpoint, endpoint_of
from eval.endpoint.endpoint_client import EndpointClient
from eval.endpoint.evaluate_endpoint import REPLIES, evaluate_endpoint
from eval.endpoint.said import read_said
from reward_models.judges.api import GaveUp


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setitem(EndpointClient.__init__.__kwdefaults__, "backoff", 0.001)


@pytest.fixture
def ask(server, make_suite, tmp_path):
    """Evaluate a suite in the chat format, by default; its record and items."""

    def ask(suite=None, formats=("chat",), key=None, **options):
        suite = suite or ask.suite
        records = evaluate_endpoint(
            Endpoint(server.url, options.pop("model", MODEL), key), [suite], list(formats), tmp_path / "runs", **options
        )
        tables = [pandas.read_parquet(tmp_path / "runs" / record["run_id"] / "items.parquet") for record in records]
        return records, tables

    ask.suite = make_suite()
    ask.folder = tmp_path / "runs"
    return ask


OUTAGES = [
    (429, "slow down", {"Retry-After": "0"}),
    (429, "slow down", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    (500, "oh", {}),
    (503, "", {}),
    None,
    "no JSON {",
    "[]",
    json.dumps({"choices": []}),
    json.dumps({"choices": {"message": 1}}),
    json.dumps({"error": {"message": "overloaded"}}),
    json.dumps({"choices": [{"message": {"content": 5}}]}),
    (200, '{"choices": [{"mess', {"Content-Length": "900"}),
    (200, "<html>", {"Content-Type": "text/html"}),
]


def test_an_outage_is_waited_for(server, caplog):
    client = EndpointClient(Endpoint(server.url, MODEL))
    for number, said in enumerate(OUTAGES):
        server.reply = lambda body, chat, attempt, said=said: said if attempt < 3 else completion("red", chat=chat)
        payload = {"model": MODEL, "messages": [{"role": "user", "content": f"question {number}"}]}
        assert client.ask("/chat/completions", payload, read_said).text == "red", said
        assert client.retried == 2 * (number + 1), said
        with pytest.raises(GaveUp, match=r"HTTP|Error"):
            server.reply = lambda body, chat, attempt, said=said: said
            client.ask("/chat/completions", payload, read_said)
        client.retried = 2 * (number + 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{server.url}#{MODEL}: requests are repeated: HTTP 429: slow down"  # once
    ]


def test_a_server_that_is_silent(server, ask):
    waiting = threading.Event()
    server.reply = lambda body, chat, attempt: (
        completion("red", chat=chat) if body["max_tokens"] == 1 or attempt > 1 or waiting.wait(2) else None
    )
    (record,), _ = ask(limit=1, timeout=0.1)
    assert record["endpoint"]["retried"] == 1
    server.reply = lambda body, chat, attempt: waiting.wait(2) and None
    with pytest.raises(UserError, match=r"(?s)No answer from.*timed out.*\(2 attempts\)"):
        ask(limit=1, timeout=0.1)
    waiting.set()


def test_an_outage_without_end_keeps_the_replies_and_writes_no_run(server, ask, caplog):
    server.reply = lambda body, chat, attempt: (
        (503, "down", {}) if "hat" in json.dumps(body) else completion(f"said {attempt}", chat=chat)
    )
    with pytest.raises(UserError) as caught:
        ask(batch_size=1)
    assert "HTTP 503: down" in str(caught.value)
    # A request that was sent when another failed is waited for, and its reply stored.
    (stored,) = (int(count) for count in re.findall(r"(\d) of 6 are stored", str(caught.value)))
    assert stored in (3, 4)
    assert [file.name for file in ask.folder.glob("*/*")] == [REPLIES]
    before = len(server.evaluated())
    server.reply = lambda body, chat, attempt: completion("later", chat=chat)
    with caplog.at_level(logging.WARNING):
        (record,), (items,) = ask(batch_size=1)
    assert list(items["output"]) == ["said 1"] * 3 + ["later", *items["output"][4:]]
    assert (record["endpoint"]["asked"], record["endpoint"]["resumed"]) == (6 - stored, stored)
    assert (
        len(server.evaluated()) - before == 6 - stored
        and f"{stored} of 6 replies are those of an interrupted run" in caplog.text
    )
    assert sorted(file.name for file in ask.folder.glob("*/*")) == ["items.parquet", "run.json"]
    (record,), (items,) = ask(batch_size=1)  # a complete run is asked anew
    assert list(items["output"]) == ["later"] * 6 and record["endpoint"]["resumed"] == 0


def test_an_interrupted_run_resumes(server, ask):
    def reply(body, chat, attempt):
        if "cup" in json.dumps(body):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.1)
        return completion("red", chat=chat)

    server.reply = reply
    with pytest.raises(KeyboardInterrupt):
        ask(batch_size=1)
    assert [file.name for file in ask.folder.glob("*/*")] == [REPLIES]
    server.reply = lambda body, chat, attempt: completion("blue", chat=chat)
    (record,), (items,) = ask(batch_size=1)
    assert (record["endpoint"]["resumed"], record["endpoint"]["asked"]) == (5, 1)  # with the request in flight
    assert list(items["output"]) == ["red"] * 5 + ["blue"]


def test_other_settings_and_models_do_not_take_stored_replies(server, ask, make_suite):
    server.reply = lambda body, chat, attempt: (
        (503, "", {}) if "boat" in json.dumps(body) else completion("red", chat=chat)
    )
    with pytest.raises(UserError, match="are stored"):
        ask(batch_size=1)
    server.reply = lambda body, chat, attempt: completion("blue", chat=chat)
    (record,), (items,) = ask(seed=1)
    assert record["endpoint"]["resumed"] == 0 and set(items["output"]) == {"blue"}


# ---- What the server refuses ----


def test_an_unknown_model_is_refused_with_those_there_are(server, ask):
    with pytest.raises(UserError, match=r"(?s)model `large` does not exist.*a model of the server: tiny.*--model tiny"):
        ask(model="large", formats=["plain", "chat"])
    server.lists = False
    with pytest.raises(UserError, match="check --model, and that --endpoint is the address that ends with /v1"):
        ask(model="large")
    assert not list(ask.folder.glob("*/*"))


def test_a_format_that_the_server_lacks(server, ask, caplog):
    server.routes = {"/chat/completions"}
    (record,), _ = ask(formats=["plain", "chat"], limit=1)
    assert record["format"] == "chat" and "not asked in the plain format" in caplog.text
    with pytest.raises(UserError, match="Not Found"):
        ask(formats=["plain"])


def test_a_refusal_in_the_middle_is_final(server, ask):
    server.reply = lambda body, chat, attempt: (
        (400, '{"error": "no blue"}', {}) if "blue" in json.dumps(body) else completion("red", chat=chat)
    )
    with pytest.raises(UserError, match=r"(?s)refuses item \d of task 'colours'.*HTTP 400.*no blue"):
        ask()
    assert max(server.attempts.values()) == 1 and not list(ask.folder.rglob("run.json"))


def test_nobody_listens(ask, tmp_path):
    with pytest.raises(UserError, match=r"(?s)No answer from http://127.0.0.1:9/v1#tiny.*that the server runs"):
        evaluate_endpoint(Endpoint("http://127.0.0.1:9/v1", MODEL), [ask.suite], ["chat"], tmp_path / "runs")
    assert not list(ask.folder.glob("*"))


# ---- The key ----


def test_the_key_is_sent_and_never_shown(server, ask, monkeypatch, caplog):
    server.key = "my key".replace(" ", "-")
    monkeypatch.setenv("MY_KEY", server.key)
    (record,), _ = ask(key="MY_KEY", limit=1)
    written = "".join(file.read_text(errors="replace") for file in ask.folder.glob("*/*"))
    assert server.key not in written + caplog.text + json.dumps(record)
    monkeypatch.setenv("MY_KEY", KEY)
    with pytest.raises(UserError) as caught:
        ask(key="MY_KEY")
    assert "[key]" in str(caught.value) and KEY not in str(caught.value) and "variable MY_KEY" in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    with pytest.raises(UserError, match="--api_key_env NAME"):
        ask()
    assert all(headers.get("Authorization") != f"Bearer {KEY}" for _, _, headers, _ in server.requests[-1:])
    assert server.requests[-1][2].get("OpenAI-Organization") is None


def test_the_key_goes_to_no_other_host(server, ask, monkeypatch):
    from completion_server import CompletionServer

    other = CompletionServer()
    monkeypatch.setenv("MY_KEY", KEY)
    server.reply = lambda body, chat, attempt: (307, "", {"Location": f"{other.url}/chat/completions"})
    with pytest.raises(UserError, match="HTTP 307"):
        ask(key="MY_KEY")
    assert not other.requests
    other.http.shutdown()
    other.http.server_close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000/v1", "not an HTTP address"),
        ("http://", "not an HTTP address"),
        ("http://h:x/v1", "not an HTTP address"),
        ("http://[::1/v1", "not an HTTP address"),
        ("https://me:secret@h/v1", "without a user name"),
        ("https://h/v1?api-key=secret", "without a user name"),
        ("http://h:1/v1/chat/completions", "--endpoint http://h:1/v1$"),
        ("http://h:1/v1/completions/", "--endpoint http://h:1/v1$"),
    ],
)
def test_addresses(url, said):
    with pytest.raises(UserError, match=said) as caught:
        endpoint_of(url, "m")
    assert "secret" not in str(caught.value)


def test_names_of_runs():
    assert endpoint_of("http://LocalHost:8000/v1/", "org/a b:c").stage == "org-a-b-c@LocalHost-8000"
    assert endpoint_of("https://[::1]:80/v1", "m").name == "https://[::1]:80/v1#m"
    for variable in ("MISSING_KEY", ""):
        with pytest.raises(UserError, match="no key in the environment variable"):
            endpoint_of("http://h/v1", "m", variable)


# ---- Replies ----


def test_replies_without_text(server, ask, caplog):
    def reply(body, chat, attempt):
        if "blue" in json.dumps(body):
            return completion(None, chat=chat, finish="content_filter")
        if "green" in json.dumps(body):
            return completion(None, chat=chat, finish="length", tokens=8)
        return completion("", chat=chat)

    server.reply = reply
    (record,), (items,) = ask(limit=3)
    assert list(items["raw_output"]) == ["", "", ""] and list(items["truncated"]) == [False, True, False]
    assert record["endpoint"]["null_replies"] == 2
    assert "2 of 3 replies have no text (null; content_filter: 1, length: 1)" in caplog.text
    server.reply = lambda body, chat, attempt: completion(None, chat=chat, finish="length")
    with pytest.raises(UserError, match=r"(?s)No reply of .* has text.*length: 3.*max_gen_toks"):
        ask(limit=3, variant={"limit": 3})


def test_half_a_character(server, ask):
    server.reply = lambda body, chat, attempt: completion("red \ud83d", chat=chat)
    _, (items,) = ask(limit=1)
    assert items["output"][0] == "red ?"


def test_prompts_that_are_too_long(server, ask, caplog):
    server.limit = 80
    (record,), (items,) = ask()
    (gone,) = record["left_out"]
    assert (gone["n"], gone["of"]) == (6 - len(items), 6) and 0 < len(items) < 6 and record["context"] is None
    assert "do not fit into the model's context; the scores are of the others" in caplog.text
    with pytest.raises(UserError, match=r"(?s)\d of 6 items of task 'colours' do not fit.*maximum context length is 9"):
        ask(too_long="refuse")
    server.limit = 60
    with pytest.raises(UserError, match="No item fits"):
        ask(variant={"other": 1})


def test_several_models_behind_one_name(server, ask, caplog):
    count = iter(range(99))
    server.reply = lambda body, chat, attempt: completion("red", chat=chat, system_fingerprint=f"fp{next(count) % 2}")
    (record,), _ = ask()
    assert record["endpoint"]["system_fingerprints"] == ["fp0", "fp1"]
    assert "reported several system fingerprints" in caplog.text
