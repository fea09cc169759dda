"""The critique stage: revisions by principles, what is kept of each step, and what becomes of replies without one."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from judge_server import Server

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import prepare
from alignment.errors import UserError, UserErrors
from alignment.stages import critique
from alignment.stages.critique import Revised, revise
from alignment.stages.made_rows.critique_requests import requests_of
from alignment.stages.made_rows.read_rows import RowArguments
from alignment.stages.made_rows.writers import Written
from reward_models.judges.answer_store import AnswerStore
from reward_models.judges.principles import Principle

PRINCIPLES = [
    {"name": "polite", "critique": "What is rude?", "revise": "Make it polite."},
    {"name": "short", "critique": "What is too long?", "revise": "Make it short."},
]
ROWS = [
    {
        "messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}, you fool."}],
        "n": n,
    }
    for n in range(10)
]


def reply(n: int) -> dict:
    return {"role": "assistant", "content": f"I say {n} now."}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Path("principles.yaml").write_text(yaml.safe_dump(PRINCIPLES))
    Path("replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture
def server():
    made = Server()
    made.answer = critic
    yield made
    made.http.shutdown()
    made.http.server_close()


def critic(request: str, attempt: int):
    """A critic that knows one rude word, and fails or is silent about some replies."""
    if "[Reply]" not in request:  # the first question, whether anybody is there
        return "yes"
    reply = request.split("[Reply]\n")[-1].split("\n\n")[0]
    if reply.startswith("7,"):
        return 500, "out of order", {}
    if "[Critique]" not in request:
        return "" if reply.startswith("8,") else "It is rude." if "fool" in reply else "It is fine."
    return reply.replace(", you fool", "")


def run(server, name: str = "run/critique", file: str = "replies.jsonl", **keys):
    endpoint = f"reward_models.api_judge:api?base_url={server.url}&model=m&retries=0"
    keys = {"endpoint": endpoint, "principles": "principles.yaml", "rounds": 2, "rows_per_part": 4} | keys
    return critique.run(critique.CritiqueRecipe(name, **keys), RowArguments(file))


def rows(name: str = "run/critique") -> dict[int, dict]:
    files = sorted(Path(name, "data").glob("*.parquet"))
    return {row["n"]: row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()}


def left_out(name: str = "run/critique") -> dict[int, str]:
    lines = Path(name, "data/left_out.jsonl").read_text().splitlines()
    return {row["n"]: row["left_out"] for row in map(json.loads, lines)}


def test_rows_have_the_last_revision_the_pair_and_every_step(folder, server):
    counts = run(server).metrics["counts"]
    row = rows()[3]
    assert row["messages"][-1]["content"] == "3."
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("3.", "3, you fool.")
    assert {step["principle"] for step in row["steps"]} == {"polite", "short"}
    assert [step["critique"] for step in row["steps"]] == ["It is rude.", "It is fine."]
    assert left_out() == {7: "critique: request failed", 8: "critique: answer empty"}
    assert len(rows()) == 8 and counts["revisions"] == 16 and counts["requests failed"] == 1


def test_a_reply_without_a_fault_stays_and_no_revision_is_asked(folder, server):
    counts = run(server, no_fault="is fine").metrics["counts"]
    # Each of the eight replies is rude in the first round, and fine in the second.
    assert (counts["revisions"], counts["critiques without a fault"]) == (8, 8)
    assert [step["revision"] for step in rows()[3]["steps"]] == ["3.", "3."]
    assert not any("[Critique]\nIt is fine." in question for question in server.asked())
    run(server, "run/every")
    assert any("[Critique]\nIt is fine." in question for question in server.asked())
    assert {n: row["messages"] for n, row in rows().items()} == {n: r["messages"] for n, r in rows("run/every").items()}


def test_the_same_rows_serve_sft_and_preferences(folder, server):
    run(server)
    conversations = prepare(DataArguments("run/critique/data", eval_share=0), "sft", 0, ()).splits["train"]
    pairs = prepare(DataArguments("run/critique/data", eval_share=0), "preference", 0, ()).splits["train"]
    assert [row["messages"][-1]["content"] for row in conversations] == [f"{n}." for n in (0, 1, 2, 3, 4, 5, 6, 9)]
    assert [row["rejected"][0]["content"] for row in pairs] == [f"{n}, you fool." for n in (0, 1, 2, 3, 4, 5, 6, 9)]


def test_rows_do_not_depend_on_their_order_or_the_size_of_parts(folder, server):
    run(server)
    Path("turned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(ROWS)))
    run(server, "run/turned", "turned.jsonl", rows_per_part=3)
    assert rows("run/turned") == rows()


def test_nothing_is_asked_twice(folder, server):
    run(server)
    asked = server.asked()
    failed = [question for question in asked if "7, you fool" in question]
    assert {question: count for question, count in asked.items() if count > 1} == {failed[0]: 2}  # and once more
    run(server, "run/critique", rows_per_part=100)
    again = {question for question, count in server.asked().items() if count > asked[question]}
    assert len(again) == 1 and "7, you fool" in again.pop()  # the one that failed


def test_a_critic_that_is_gone_stops_the_stage_which_resumes(folder, server):
    server.answer = lambda request, attempt: critic(request, attempt) if "Say 1." in request else (503, "later", {})
    with pytest.raises(UserError, match="no answer"):
        run(server, rows_per_part=2)
    assert not Path("run/critique/data").exists()
    server.answer = critic
    run(server, rows_per_part=2)
    assert len(rows()) == 8
    assert all(count == 1 for question, count in server.asked().items() if "Say 1." in question)


def test_a_critic_that_is_gone_is_not_asked_for_the_rest_of_a_part(folder, server):
    lines = [json.dumps(ROWS[0] | {"messages": [ROWS[0]["messages"][0], reply(n)]}) + "\n" for n in range(200)]
    Path("many.jsonl").write_text("".join(lines))
    server.answer = lambda *asked: critic(*asked) if len(server.requests) <= 5 else (503, "later", {})
    with pytest.raises(UserError, match="no answer"):
        run(server, file="many.jsonl", rows_per_part=200)
    assert 5 < len(server.requests) < 100  # 8 in parallel, those that followed them, and short questions


def test_the_account_of_a_killed_stage_counts_what_it_asked_before(folder, server, monkeypatch):
    whole = run(server, "run/whole").metrics["counts"]
    put, left = AnswerStore.put, [5]

    def killed(store, key, answer):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        put(store, key, answer)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AnswerStore, "put", killed)
        run(server)
    assert run(server).metrics["counts"] == whole
    assert rows() == rows("run/whole")


def test_a_critic_whose_answers_make_no_row_is_asked_again_without_them(folder, server):
    server.answer = lambda request, attempt: "yes" if "[Reply]" not in request else ""
    with pytest.raises(UserError, match="made no row") as caught:
        run(server)
    assert "run/answers/critique.jsonl has the answers" in caught.value.fix
    Path("run/answers/critique.jsonl").unlink()
    server.answer = critic
    run(server)
    assert rows()


def test_examples_are_shown_before_each_request(folder, server):
    example = {"principle": "short", "prompt": "Hi", "reply": "Hello hello", "critique": "Twice.", "revision": "Hello"}
    Path("examples.yaml").write_text(yaml.safe_dump([example]))
    run(server, examples="examples.yaml", rounds=1)
    questions = list(server.asked())
    assert all(("Hello hello" in question and "Make it" in question) or "What is" in question for question in questions)
    assert any("Assistant: Twice." in question for question in questions)
    assert any("Assistant: Hello" in question for question in questions)


def test_a_round_that_fails_keeps_no_half_revised_reply():
    replies = [Revised.of(row) for row in ROWS[:2]]
    requests = requests_of(None, None, None, [Principle(**one) for one in PRINCIPLES])
    answers = iter([[Written("bad"), Written("bad")], [Written("0."), Written(why_not="answer truncated")]])
    revise(replies, 0, 0, requests, lambda asked: next(answers))
    assert (replies[0].reply, replies[0].lost) == ("0.", "")
    assert (replies[1].reply, replies[1].lost) == ("1, you fool.", "revision: answer truncated")
    asked = []
    revise(replies, 1, 0, requests, lambda some: asked.append(len(some)) or [Written("0.") for _ in some])
    assert asked == [1, 1]


def test_each_round_has_another_principle_while_there_are_others():
    principles = [Principle(str(number), critique="c", revise="r") for number in range(3)]
    drawn = [Revised.of(row).principle(principles, 0, 5).name for row in ROWS]
    assert len(set(drawn)) > 1
    for row in ROWS:
        assert len({Revised.of(row).principle(principles, number, 5).name for number in range(3)}) == 3


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"endpoint": None}, "either model_name_or_path or endpoint"),
        ({"model_name_or_path": "model"}, "either model_name_or_path or endpoint"),
        ({"endpoint": "nowhere.py:critic"}, "nowhere.py"),
        ({"principles": ""}, "no principles"),
        ({"principles": "nowhere.yaml"}, "nowhere.yaml"),
        ({"rounds": 0}, "rounds"),
        ({"max_completion_length": 0}, "max_completion_length is out of range"),
        ({"no_fault": " "}, "no_fault"),
        ({"revise_template": "{reply}"}, "principle"),
        ({"examples": "nowhere.yaml"}, "nowhere.yaml"),
        ({"examples": "latin.yaml"}, "latin.yaml is not a text in UTF-8"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(folder, server, keys, says):
    Path("latin.yaml").write_bytes("- {principle: Höflich}".encode("latin-1"))
    with pytest.raises((UserError, UserErrors), match=says):
        run(server, **keys)
    assert not Path("run").exists()


def test_an_endpoint_that_is_not_there(folder, server):
    server.http.server_close()
    with pytest.raises(UserError, match="no answer"):
        run(server)
