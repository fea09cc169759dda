"""The opinions of judges: both positions, budget, ties, and an account in which no question is missing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import ppo_tiny as tiny
import pytest
from judge_server import KEY, Server

from alignment.errors import UserError
from reward_models.judges.answer_store import AnswerStore
from reward_models.judges.api import PROBE
from reward_models.judges.asked import PairQuestion, RatingQuestion, Templates
from reward_models.judges.named_judges import check_judge, load_panel
from reward_models.judges.panel import (
    FAILED,
    OVER_BUDGET,
    SAME_TEXT,
    UNREADABLE,
    judge_pairs,
    judge_ratings,
    require_ready,
)

TEMPLATES = Templates("{principle}|{prompt}|{a}|{b}", "{principle}|{completion}")
OWN = '''
class Longest:
    """Prefers the longer reply, or the one that a principle names."""

    def compare(self, prompts, a, b, principles):
        open("calls", "a").write("x" * len(a))
        return [float(len(x) > len(y)) if p == "long" else 0.5 for x, y, p in zip(a, b, principles)]


def length(completions, extra, **columns):
    return [len(one) + more for one, more in zip(completions, extra)]
'''


def endpoint(server, **options) -> list:
    settings = {"backoff": 0.001, "timeout": 10, "retries": 2, "concurrency": 4} | options
    query = "&".join(f"{name}={value}" for name, value in settings.items())
    return load_panel([f"api_judge:api?base_url={server.url}&model=org/judge&{query}"], templates=TEMPLATES)


def pairs(count: int, principle: str = "p") -> list[PairQuestion]:
    return [PairQuestion("q", f"a{number}", f"b{number}", principle) for number in range(count)]


def prefers_a(question: str, attempt: int) -> str:
    """A judge that prefers reply a, wherever it is shown."""
    if question == PROBE:
        return "Verdict: A"
    return f"Verdict: {'A' if question.split('|')[2].startswith('a') else 'B'}"


def test_both_positions_are_combined(server, tmp_path):
    """P(A) of 0.8 with a first, and of 0.4 with b first: a is better with 0.7, and 0.1 is owed to the position."""

    def answer(question, attempt):
        first = 0.8 if question.split("|")[2].startswith("a") else 0.4
        says = "A" if first > 0.5 else "B"
        token = {"A": first, "B": 1 - first}
        return 200, Server.wrap(f"Verdict: {says}", [("Verdict", {}), (":", {}), (f" {says}", token)]), {}

    server.answer = answer
    asked = [*pairs(2), PairQuestion("q", "same", "same", "p"), *pairs(1)]
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(endpoint(server), asked, store)
    [first] = opinions[0].judges
    assert (first.a_first, first.b_first) == (pytest.approx(0.8), pytest.approx(0.4))
    assert (first.preference, first.position_effect) == (pytest.approx(0.7), pytest.approx(0.1))
    assert first.agree and first.graded and opinions[0].agree and opinions[3] == opinions[0]
    assert (opinions[2].preference, opinions[2].reason, opinions[2].judges) == (0.5, SAME_TEXT, ())
    assert server.asked() == Counter({f"p|q|{one}": 1 for one in ("a0|b0", "b0|a0", "a1|b1", "b1|a1")})
    judge = account.judges["judge"]
    assert (account.rows, account.opinions, account.ties, account.requests) == (4, 4, 1, 4) and not account.without
    assert (judge.questions, judge.asked, judge.graded, judge.inconsistent, judge.from_store) == (4, 4, 4, 0, 0)
    assert json.loads(json.dumps(account.as_dict()))["judges"]["judge"]["asked"] == 4


def test_a_judge_that_prefers_a_position(server, tmp_path):
    server.answer = lambda question, attempt: "Verdict: A"
    with AnswerStore(tmp_path / "answers") as store:
        [opinion, other], account = judge_pairs(endpoint(server), pairs(2), store)
    assert (opinion.preference, opinion.agree, opinion.judges[0].position_effect) == (0.5, False, 0.5)
    assert account.judges["judge"].inconsistent == 2 and account.ties == 2 and other.judges[0].graded is False


def test_a_server_that_refuses_logprobs_is_asked_without(server, tmp_path, caplog):
    server.refuses_logprobs, server.answer = True, prefers_a
    judges = endpoint(server)
    require_ready(judges)
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(judges, pairs(3), store)
    assert [one.preference for one in opinions] == [1.0] * 3 and account.judges["judge"].graded == 0
    assert caplog.text.count("takes no logprobs") == 1 and set(server.asked().values()) == {1}


def test_an_endpoint_that_is_not_there(server, tmp_path):
    server.answer = lambda question, attempt: (503, "busy", {})
    for url, says, retried in (("http://127.0.0.1:9/v1", "ConnectError", 0), (server.url, "HTTP 503", 4)):
        [judge] = load_panel([f"api_judge:api?base_url={url}&model=m&backoff=0.001"])
        with pytest.raises(UserError, match="no answer from") as caught:
            require_ready([judge])
        assert says in str(caught.value) and judge.retried == retried
    server.answer = lambda question, attempt: (404, "no such model", {})
    with pytest.raises(UserError, match="refuses the request"):
        require_ready(endpoint(server))
    server.answer = lambda question, attempt: (200, "<html>", {})
    with pytest.raises(UserError, match="not a chat completion"):
        require_ready(endpoint(server))


def troubled(question: str, attempt: int):
    """Every kind of trouble, by the number of the pair; the third attempt is the last."""
    number = 7 if question == PROBE else int(question.split("|")[2][1:]) % 8
    trouble = {
        0: [(429, "slow down", {"Retry-After": "0"})],
        1: [(200, "not json", {}), (200, '{"choices": []}', {})],
        2: ["I cannot decide."] * 9,
        3: [(500, "broken", {})] * 9,
        4: [None, (503, "busy", {})],
        5: [(400, "too long", {})] * 9,
        6: [(500, "broken", {})] * 3,  # it comes back for the second pass
    }.get(number, [])
    return trouble[attempt - 1] if attempt <= len(trouble) else prefers_a(question, attempt)


def test_trouble_is_accounted_for_and_nothing_is_lost(server, tmp_path):
    server.answer = troubled
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(endpoint(server, logprobs="false"), pairs(16), store)
    expected = {2: (None, UNREADABLE), 3: (None, FAILED), 5: (None, FAILED)}
    for number, opinion in enumerate(opinions):
        assert (opinion.preference, opinion.reason) == expected.get(number % 8, (1.0, ""))
    judge = account.judges["judge"]
    assert account.without == {UNREADABLE: 2, FAILED: 4} and account.opinions == 10
    assert (judge.questions, judge.asked, judge.unreadable, judge.failed) == (32, 32, 4, 8)
    # Retries of four questions each: 1, 2, 2 + 2 (asked twice), 2 and 2.
    assert judge.retried == 4 * (1 + 2 + 4 + 2 + 2)
    assert judge.failure in ("HTTP 500: broken", "HTTP 400: too long") and judge.unread == "I cannot decide."
    once = {question: count for question, count in server.asked().items() if int(question.split("|")[2][1:]) % 8 == 7}
    assert set(once.values()) == {1}
    refused = {question: count for question, count in server.asked().items() if "|a5|" in question}
    assert set(refused.values()) == {1}  # another attempt is of no use
    with AnswerStore(tmp_path / "answers") as store:  # failed questions are asked again, all others are stored
        before = server.asked()
        server.answer = prefers_a
        opinions, account = judge_pairs(endpoint(server, logprobs="false"), pairs(16), store)
    assert account.judges["judge"].from_store == 24 and account.judges["judge"].asked == 8
    again = {int(question.split("|")[2][1:]) % 8 for question in server.asked() - before}
    assert again == {3, 5} and account.without == {UNREADABLE: 2}


def test_a_server_that_dies_ends_the_run_and_a_repetition_resumes_it(server, tmp_path):
    seen = []

    def dies(question, attempt):
        seen.append(question)
        return prefers_a(question, attempt) if len(seen) <= 30 else (503, "down", {})

    server.answer = dies
    with AnswerStore(tmp_path / "answers") as store:
        with pytest.raises(UserError, match="no answer from"):
            judge_pairs(endpoint(server, retries=1), pairs(100), store)
        assert len(store) == 30 and len(seen) < 100  # it does not go through all questions
    before = server.asked()
    server.answer = prefers_a
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(endpoint(server), pairs(60), store)
    assert {one.preference for one in opinions} == {1.0} and account.judges["judge"].from_store == 30
    assert all(server.asked()[question] == before[question] == 1 for question in seen[:30])


def test_an_error_or_ctrl_c_does_not_wait_for_retries(server, tmp_path):
    """Other questions wait for a minute, as the server asks; the error comes at once, and what was answered is kept."""
    later = {"p|q|b2|a2", "p|q|a3|b3", "p|q|b3|a3"}
    waiting = threading.Barrier(4, timeout=10)  # three questions that wait, and the one that is refused

    def answer(question, attempt):
        if question.startswith("p|q|a0|"):
            return prefers_a(question, attempt)
        if server.attempts.keys().isdisjoint(later):
            waiting.wait()
        return (403, "no", {}) if question.startswith("p|q|b1|") else (429, "", {"Retry-After": "60"})

    server.answer = answer
    begun = time.monotonic()
    with AnswerStore(tmp_path / "answers") as store, pytest.raises(UserError, match="refuses the request"):
        judge_pairs(endpoint(server), pairs(4), store)
    assert time.monotonic() - begun < 9 and len(store) == 1


def test_a_slow_server_times_out_and_is_asked_again(server, tmp_path):
    def slow(question, attempt):
        if question.startswith("p|q|a1") and attempt == 1:
            time.sleep(0.4)
        return prefers_a(question, attempt)

    server.answer = slow
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(endpoint(server, timeout=0.15), pairs(3), store)
    assert [one.preference for one in opinions] == [1.0] * 3 and account.judges["judge"].retried == 1


def test_a_budget_reaches_the_first_pairs_whatever_the_timing(server, tmp_path):
    seen = server.requests
    server.answer = lambda question, attempt: time.sleep(len(seen) % 3 / 500) or prefers_a(question, attempt)
    asked = [*pairs(3), PairQuestion("q", "x", "x"), *pairs(5)]  # the last five include the first three
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(endpoint(server), asked, store, max_requests=7)
    reasons = ["", "", "", SAME_TEXT, "", "", "", OVER_BUDGET, OVER_BUDGET]
    assert [one.reason for one in opinions] == reasons and opinions[7].preference is None
    judge = account.judges["judge"]
    assert account.requests == 6 and account.without == {OVER_BUDGET: 2}
    assert (judge.questions, judge.asked, judge.over_budget) == (10, 6, 4) and sum(server.asked().values()) == 6
    with AnswerStore(tmp_path / "answers") as store:  # a repetition of the same run has the same budget
        again, account = judge_pairs(endpoint(server), asked, store, max_requests=7)
    assert again == opinions and account.requests == 6 and sum(server.asked().values()) == 6
    with AnswerStore(tmp_path / "answers", run="next") as store:  # what another run paid for is free
        opinions, account = judge_pairs(endpoint(server), asked, store, max_requests=2)
    assert [one.reason for one in opinions][7:] == ["", OVER_BUDGET] and account.requests == 2


def test_several_judges(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    server.answer = lambda question, attempt: "?" if "a1" in question else prefers_a(question, attempt)
    names = [f"api_judge:api?base_url={server.url}&model=m", "own.py:Longest", "own.py:Longest"]
    judges = load_panel(names, templates=TEMPLATES)
    asked = [
        PairQuestion("q", "a0", "b00", "long"),
        PairQuestion("q", "a1", "b11", "long"),
        PairQuestion("q", "a", "b"),
    ]
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(judges, asked, store, max_requests=4)
    assert [judge.name for judge in judges] == ["m", "Longest_1", "Longest_2"]
    assert [one.preference for one in opinions] == [pytest.approx(1 / 3), 0.0, None]
    assert [one.preference for one in opinions[0].judges] == [1.0, 0.0, 0.0] and not opinions[0].agree
    assert [one.preference for one in opinions[1].judges] == [None, 0.0, 0.0] and opinions[1].agree
    assert opinions[2].reason == OVER_BUDGET and account.judges["Longest_1"].over_budget == 2
    assert len((tmp_path / "calls").read_text()) == 4  # the second of the same judges finds its answers in the store
    with pytest.raises(UserError, match="gives no ratings"):
        require_ready(judges[1:], RatingQuestion)


def test_a_reward_is_a_judge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    judges = load_panel(["own.py:length"])
    rows = [PairQuestion("q", "aaa", "b", columns={"extra": 1}), PairQuestion("q", "aa", "bb", columns={"extra": 1})]
    with AnswerStore(tmp_path / "answers") as store:
        opinions, _ = judge_pairs(judges, rows, store)
        ratings, account = judge_ratings(judges, [RatingQuestion("q", "aaa", columns={"extra": 2})], store)
    assert [one.preference for one in opinions] == [1.0, 0.5]
    assert ratings[0].rating == 5.0 and ratings[0].judges == {"length": 5.0} and account.opinions == 1


def test_ratings(server, tmp_path):
    said = {"p|good": "Rating: 5", "p|odd": "?", "p|bad": (500, "", {})}
    server.answer = lambda question, attempt: said.get(question, "Rating: 1")
    replies = [RatingQuestion("q", text, "p") for text in ("good", "odd", "bad", "more")]
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_ratings(endpoint(server), replies, store, max_requests=3)
    assert [(one.rating, one.reason) for one in opinions] == [
        (5.0, ""), (None, UNREADABLE), (None, FAILED), (None, OVER_BUDGET),
    ]  # fmt: skip
    assert account.requests == 3 and account.opinions == 1


# ---- A local model ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("judge") / "judge"
    model, tokenizer = tiny.model(seed=7, initializer_range=0.5), tiny.tokenizer()
    tokenizer.add_tokens(["1", "2", "3", "4", "5", "A", "B"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_local_judge_gives_probabilities_and_is_resumed_to_the_bit(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("reward_models.judges.asked.AskedModel.block", 8)
    [judge] = load_panel([f"local_judge:local?checkpoint={checkpoint}&min_mass=0&batch_size=3"], templates=TEMPLATES)
    require_ready([judge])
    asked = [PairQuestion("w1", f"w{number} " * (number % 5 + 1), "w3", f"w{number % 7}") for number in range(4, 14)]
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs([judge], asked, store, max_requests=0)  # a local model is no request
    masses = judge.judge.answer_probabilities([judge.text(asked[0]), judge.text(asked[0].swapped())], ["A", "B"])
    first = (masses[:, 0] / masses.sum(1)).tolist()
    assert [opinions[0].judges[0].a_first, opinions[0].judges[0].b_first] == pytest.approx(first, rel=1e-5)
    assert account.judges["judge"].graded == 20 and account.requests == 0
    lines = (tmp_path / "answers").read_bytes().splitlines(keepends=True)
    for kept in (0, 3, 11):
        path = tmp_path / f"answers{kept}"
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
        with AnswerStore(path) as store:
            again, account = judge_pairs([judge], asked, store)
        assert again == opinions and account.judges["judge"].from_store == kept
    ratings, _ = judge_ratings([judge], [RatingQuestion("w1", "w2", "w3")], AnswerStore(tmp_path / "ratings"))
    assert 1 < ratings[0].rating < 5


def test_local_judges_that_cannot_judge(checkpoint, tmp_path):
    name = f"local_judge:local?checkpoint={checkpoint}&highest=6&min_mass=0.5"  # a random model gives A and B less
    [judge] = load_panel([name], templates=TEMPLATES)
    with pytest.raises(UserError, match="is not one token"):
        require_ready([judge], RatingQuestion)
    judge.judge.model.config.max_position_embeddings = 5
    with AnswerStore(tmp_path / "answers") as store:
        [opinion, other], _ = judge_pairs(
            [judge], [PairQuestion("w1", "w2 " * 9, "w3"), PairQuestion("", "w2", "w3")], store
        )
    assert (opinion.reason, other.reason) == (FAILED, UNREADABLE)
    judge.judge.tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        require_ready([judge])


def test_a_judge_is_checked_by_its_name(checkpoint, server, tmp_path, monkeypatch):
    """Before anything runs, and without loading a model."""
    monkeypatch.setattr("reward_models.judges.local.load_causal_lm", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    (bare / "chat_template.jinja").unlink()
    server.answer = prefers_a
    api = f"api_judge:api?base_url={server.url}&model=m&backoff=0.001"
    for name in (f"local_judge:local?checkpoint={checkpoint}", api, "own.py:Longest", "own.py:length"):
        check_judge(name)
    wrong = {
        f"local_judge:local?checkpoint={bare}": "has no chat template",
        f"local_judge:local?checkpoint={tmp_path}/nowhere": "nowhere",
        "local_judge:local?checkpoint=x&lowest=5": "lowest < highest",
        "api_judge:api?base_url=http://127.0.0.1:9/v1&model=m": "no answer from",
        f"{api}&colour=red": "colour",
        "own.py:Longst": "did you mean 'Longest'",
        str(tmp_path): "own.py",
        "pairs.py:longer": "a judge of pairs is a class with `compare`",
        str(checkpoint): f"reward_models.local_judge:local?checkpoint={checkpoint}",
    }
    (tmp_path / "pairs.py").write_text("def longer(prompts, a, b):\n    return [1.0] * len(a)\n")
    for name, says in wrong.items():
        with pytest.raises(UserError) as caught:
            check_judge(name)
        assert says in str(caught.value), name
    with pytest.raises(UserError, match="is not one token"):
        check_judge(f"local_judge:local?checkpoint={checkpoint}&highest=6", pairs=False)


# ---- A killed client ----

CLIENT = """
import sys, reward_models.judges.panel as panel
from reward_models.judges.answer_store import AnswerStore
from reward_models.judges.asked import PairQuestion, Templates
from reward_models.judges.named_judges import load_panel
judges = load_panel([sys.argv[1]], templates=Templates("{principle}|{prompt}|{a}|{b}"))
pairs = [PairQuestion("q", f"a{number}", f"b{number}", "p") for number in range(20)]
panel.judge_pairs(judges, pairs, AnswerStore(sys.argv[2]))
"""


def test_a_killed_client_asks_nothing_twice(server, tmp_path):
    """Killed by SIGKILL between two answers; only requests under way at that moment are repeated."""
    reached, killed = threading.Event(), threading.Event()

    def answer(question, attempt):
        if len(server.attempts) > 15 and not reached.is_set():
            reached.set()
            killed.wait(60)
        return prefers_a(question, attempt)

    server.answer = answer
    name = f"api_judge:api?base_url={server.url}&model=org/judge&concurrency=1&api_key_env=JUDGE_KEY"
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, name, str(tmp_path / "answers")],
        env={**os.environ, "JUDGE_KEY": KEY},
    )
    assert reached.wait(60)
    client.send_signal(signal.SIGKILL)
    client.wait()
    killed.set()
    server.answer = prefers_a
    judges = load_panel([name], templates=TEMPLATES)
    with AnswerStore(tmp_path / "answers") as store:
        opinions, account = judge_pairs(judges, pairs(20), store)
    assert {one.preference for one in opinions} == {1.0} and account.judges["judge"].from_store == 15
    counts = server.asked()
    assert len(counts) == 40 and sorted(counts.values()) == [1] * 39 + [2]
    journal = (tmp_path / "answers").read_text()
    assert KEY not in journal and server.url not in journal and "|" not in journal
