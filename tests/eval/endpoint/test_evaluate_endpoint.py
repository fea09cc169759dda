"""Evaluations through an endpoint equal those of the same weights on this machine."""

import json
import threading

import pandas
import pytest
from completion_server import MODEL, completion, model_replies

from eval.endpoint.address import Endpoint
from eval.endpoint.evaluate_endpoint import REPLIES, evaluate_endpoint
from eval.harness.run_suite import evaluate

STOPS = ["\n", "zz", "q", "2"]  # the tiny model says the last two now and then
HELLO = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"  # the first short request
SYSTEM = 'description: "Be brief.\\n"'


def endpoint_of(server) -> Endpoint:
    return Endpoint(server.url, MODEL)


def through(server, suite, folder, format, **options):
    (record,) = evaluate_endpoint(endpoint_of(server), [suite], [format], folder, **options)
    return record, pandas.read_parquet(folder / record["run_id"] / "items.parquet")


@pytest.mark.parametrize("format", ["plain", "chat"])
@pytest.mark.parametrize("more,shots", [("", 0), (SYSTEM, 3)])
def test_scores_and_items_equal_those_of_the_local_model(
    server, model, tokenizer, make_suite, tmp_path, format, more, shots
):
    given = []
    server.reply = model_replies(model, tokenizer, given)
    suite = make_suite(more=more, until=STOPS, max_gen_toks=20)
    record = evaluate("x", suite, format, tmp_path / "local", loaded=(model, tokenizer), num_fewshot=shots)
    local = pandas.read_parquet(tmp_path / "local/items.parquet")
    assert local["output"].nunique() > 3 and local["gen_len"].nunique() > 1  # stops end some replies
    for requests in (1, 8) if shots else (8,):
        found, items = through(server, suite, tmp_path / str(requests), format, num_fewshot=shots, batch_size=requests)
        assert (found["tasks"], found["suite_digest"]) == (record["tasks"], record["suite_digest"])
        columns = [name for name in local.columns if (name, format) != ("prompt", "chat")]
        pandas.testing.assert_frame_equal(items[columns], local[columns])
    assert set(given) == {"Hello" if format == "plain" else HELLO, *local["prompt"]}  # as the server renders them


@pytest.mark.parametrize("format", ["plain", "chat"])
def test_conversations_are_sent_as_turns(server, model, tokenizer, tmp_path, format):
    """Held-out rows as SFT trains on: system text, earlier turns, and examples as turns before them."""
    server.reply = model_replies(model, tokenizer)
    roles = ["system", "user", "assistant", "user", "assistant"]
    rows = [{"messages": [{"role": r, "content": f"{r} {k}{i}"} for i, r in enumerate(roles)]} for k in range(4)]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    suite = f"{tmp_path}/talks.jsonl?max_gen_toks=6&num_fewshot=1"
    evaluate("x", suite, format, tmp_path / "local", loaded=(model, tokenizer))
    local = pandas.read_parquet(tmp_path / "local/items.parquet")
    _, items = through(server, suite, tmp_path / "run", format)
    columns = [name for name in local.columns if (name, format) != ("prompt", "chat")]
    pandas.testing.assert_frame_equal(items[columns], local[columns])
    if format == "chat":
        sent = [[turn["role"] for turn in json.loads(prompt)] for prompt in items["prompt"]]
        assert sent == [["system", *["user", "assistant"] * 3, "user"]] * 4


def test_replies_are_cut_at_stops_that_a_request_has_no_room_for(server, model, tokenizer, make_suite, tmp_path):
    server.reply = model_replies(model, tokenizer)
    suite = make_suite(until=["\n", "zz", "qq", "xx", "2", ""], max_gen_toks=20)
    evaluate("x", suite, "plain", tmp_path / "local", loaded=(model, tokenizer))
    local = pandas.read_parquet(tmp_path / "local/items.parquet")
    _, items = through(server, suite, tmp_path / "run", "plain")
    assert all(body["stop"] == ["\n", "zz", "qq", "xx"] for body in server.evaluated())
    texts = ["output", "raw_output", "truncated"]
    pandas.testing.assert_frame_equal(items[texts], local[texts])
    assert items["gen_len"].isna().any() and items["gen_len"].notna().any()  # unknown where the server stops later


def test_a_request_has_the_fields_of_lm_eval(server, make_suite, tmp_path):
    through(server, make_suite(until=[]), tmp_path / "run", "chat", limit=1, seed=7)
    (body,) = server.evaluated()
    messages = [{"role": "user", "content": "Question: Which has red?\nAnswer:"}]
    assert body == {"messages": messages, "model": MODEL, "max_tokens": 8, "temperature": 0, "seed": 7}


def test_requests_at_a_time(server, make_suite, tmp_path):
    together = threading.Barrier(3)

    def reply(body, chat, attempt):
        if body["max_tokens"] > 1:
            together.wait(10)
        return completion("red", chat=chat)

    server.reply, suite = reply, make_suite()
    through(server, suite, tmp_path / "3", "chat", batch_size=3)
    assert server.most_at_once == 3
    server.reply, server.most_at_once = (lambda body, chat, attempt: completion("red", chat=chat)), 0
    _, items = through(server, suite, tmp_path / "1", "chat", batch_size=1)
    assert server.most_at_once == 1 and items["gen_len"].isna().all()  # this server does not count tokens


def test_chat_sends_system_text_and_examples_as_turns(server, make_suite, tmp_path):
    _, items = through(server, make_suite(more=SYSTEM), tmp_path / "run", "chat", num_fewshot=2, limit=1)
    (body,) = server.evaluated()
    roles = [turn["role"] for turn in body["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert json.loads(items["prompt"][0]) == body["messages"]


def test_the_record_says_what_is_known(server, make_suite, tmp_path):
    record, _ = through(server, make_suite(), tmp_path / "run", "chat", limit=2)
    stored = json.loads((tmp_path / "run" / record["run_id"] / "run.json").read_text())
    assert stored["checkpoint"] == f"{server.url}#{MODEL}" and stored["stage"].startswith(f"{MODEL}@127.0.0.1-")
    assert [stored[f"{what}_digest"] for what in ("checkpoint", "tokenizer", "template")] == [None] * 3
    assert (stored["endpoint"]["url"], stored["endpoint"]["model"]) == (server.url, MODEL)
    assert stored["endpoint"]["reported_models"] == [MODEL] and "weights" in stored["endpoint"]["unknown"]
    assert stored["endpoint"]["asked"] == 2 and "sampling" not in stored["endpoint"]
    assert {file.name for file in (tmp_path / "run" / record["run_id"]).iterdir()} == {"run.json", "items.parquet"}
    assert not list((tmp_path / "run").rglob(REPLIES))
