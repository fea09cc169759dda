"""Judges: their questions, how their answers are read, and how failures are handled."""

import json
import math
import subprocess
import sys
import threading

import ppo_tiny as tiny
import pytest
import torch
from judge_server import KEY

from alignment.errors import UserError
from reward_models.functions import load_function
from reward_models.judges import questions
from reward_models.judges.api import ApiJudge
from reward_models.judges.local import LocalJudge, answer_tokens
from reward_models.judges.positions import agreed, judge_in_both_positions


def test_braces_in_a_prompt_or_reply_are_not_replaced_again():
    [asked] = questions.rating_prompts(
        "{lowest}|{prompt}|{completion}|{other}", ["{completion} {x}"], ["{prompt}"], 1, 5
    )
    assert asked == "1|{completion} {x}|{prompt}|{other}"
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    [asked] = questions.rating_prompts("{prompt}", [talk], [[{"role": "assistant", "content": "x"}]], 1, 5)
    assert asked == "User: Hi\n\nAssistant: Yes?"


class Prefers:
    """A judge that prefers the greater text, or, if biased, always the first reply."""

    def __init__(self, biased: bool):
        self.biased = biased

    def compare(self, prompts, a, b):
        return [1.0 if self.biased else 0.5 + ((x > y) - (x < y)) / 2 for x, y in zip(a, b, strict=True)]


class Sure:
    """A judge that gives probabilities, and is fond of the first reply."""

    def compare(self, prompts, a, b):
        surer = {("good", "bad"): 0.9, ("bad", "good"): 0.3, ("x", "y"): 0.6, ("y", "x"): 0.7}
        return [surer[pair] for pair in zip(a, b, strict=True)]


def test_probabilities_of_a_judge_of_ones_own_count_as_their_sides():
    both = judge_in_both_positions(Sure(), ["", ""], ["good", "x"], ["bad", "y"])
    assert (both.preferences, both.a_first, both.b_first) == ([1.0, 0.5], [1.0, 1.0], [1.0, 0.0])


def test_both_positions_must_agree():
    fair = judge_in_both_positions(Prefers(False), ["", "", ""], "bab", "abb")
    assert (fair.preferences, fair.a_first, fair.b_first) == ([1.0, 0.0, 0.5], [1.0, 0.0], [1.0, 0.0])
    biased = judge_in_both_positions(Prefers(True), ["", "", ""], "bab", "abb")
    assert (biased.preferences, biased.a_first, biased.b_first) == ([0.5, 0.5, 0.5], [1.0, 1.0], [0.0, 0.0])
    table = {(1, 1): 1, (0, 0): 0, (1, 0): 0.5, (1, 0.5): 0.5, (0.5, 0): 0.5, (0.5, 0.5): 0.5, (None, 0): None}
    assert {pair: agreed(*pair) for pair in table} == table and agreed(1, None) is None


# ---- A local model ----


def numbered():
    """A tokenizer with the ratings and the answers A and B in its vocabulary."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["1", "2", "3", "A", "B"])
    tokenizer.chat_template = None
    return tokenizer


def local_judge(**options) -> tuple[LocalJudge, torch.nn.Module]:
    model = tiny.model(seed=7, initializer_range=0.5)
    tokenizer = numbered()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    options = {
        "ratings": (1, 3),
        "template": "{prompt} {completion} w9",
        "pair_template": "{prompt} {a} {b}",
        "min_mass": 0.0,  # a random model gives the answers little
    } | options
    return LocalJudge(model, tokenizer, **options), model


def next_probabilities(model, text: str) -> torch.Tensor:
    ids = torch.tensor([numbered()(text)["input_ids"]])
    with torch.no_grad():
        return model(ids).logits[0, -1].double().softmax(-1)


def test_the_reward_is_the_expected_rating():
    local, model = local_judge(batch_size=2)
    prompts, replies, logged = ["w1", "w2 w3 w4", "w5"], ["w6 w7", "w8", "w10 w11 w12 w13"], {}
    given = local(prompts=prompts, completions=replies, log_metric=logged.__setitem__)
    tokens, masses = numbered().convert_tokens_to_ids(["1", "2", "3"]), []
    for prompt, reply, rating in zip(prompts, replies, given, strict=True):
        one, two, three = next_probabilities(model, f"{prompt} {reply} w9")[tokens].tolist()
        masses.append(one + two + three)
        assert rating == pytest.approx((one + 2 * two + 3 * three) / masses[-1], abs=1e-5)
    assert logged == {"judge/mass": pytest.approx(sum(masses) / 3, abs=1e-6), "judge/unreadable": 0.0}
    assert len({round(rating, 3) for rating in given}) == 3


def test_the_preferred_reply_is_the_likelier_answer():
    local, model = local_judge()
    prompts, a, b = ["w1", "w2", "w3"], ["w4", "w5 w6", "w7"], ["w8 w9", "w10", "w11"]
    tokens = numbered().convert_tokens_to_ids(["A", "B"])
    expected = []
    for row in zip(prompts, a, b, strict=True):
        says_a, says_b = next_probabilities(model, " ".join(row))[tokens].tolist()
        expected.append(float(says_a > says_b))
    assert local.compare(prompts, a, b) == expected
    answers = local.compare(prompts, a, a)  # A and B are hardly ever as likely as each other
    assert 0.5 not in answers and judge_in_both_positions(local, prompts, a, a).preferences == [0.5] * 3


def test_a_model_that_does_not_mean_to_answer_has_no_opinion(caplog):
    """If the answers have hardly any probability in total, their shares mean nothing."""
    prompts, replies, logged = ["w1", "w2", "w3"], ["w4", "w5", "w6"], {}
    local, _ = local_judge(min_mass=0.0)
    masses = [local.answer_probabilities([f"{p} {r} w9" for p, r in zip(prompts, replies, strict=True)], list("123"))]
    masses.append(
        local.answer_probabilities([f"{p} {r} {r}" for p, r in zip(prompts, replies, strict=True)], list("AB"))
    )
    for mass, judged in zip(masses, ("rating", "comparison"), strict=True):
        least = mass.sum(1).sort().values[:2].mean().item()  # above one of the three
        local, _ = local_judge(min_mass=least)
        if judged == "rating":
            given = local(prompts=prompts, completions=replies, log_metric=logged.__setitem__)
        else:
            given = local.compare(prompts, replies, replies)
        assert [one is None for one in given] == (mass.sum(1) < least).tolist() and given.count(None) == 1
        assert local.tally == {"asked": 3, "unreadable": 1}
    assert logged["judge/unreadable"] == pytest.approx(1 / 3)
    assert "no opinion" not in caplog.text  # a few are counted; most of a batch are a wrong question
    local, _ = local_judge(min_mass=1.0)
    assert local.compare(prompts, replies, replies) == [None] * 3 and "no opinion on 3 of 3 questions" in caplog.text


def test_a_local_judge_ignores_the_generation_config():
    local, model = local_judge()
    expected = local(prompts=["w1"], completions=["w2"]), local.compare(["w1"], ["w2"], ["w3"])
    vars(model.generation_config).update(repetition_penalty=5.0, top_k=1, suppress_tokens=[1, 2, 3])
    assert (local(prompts=["w1"], completions=["w2"]), local.compare(["w1"], ["w2"], ["w3"])) == expected


def test_a_local_judge_uses_the_chat_template_and_no_dropout():
    _, model = local_judge()
    tokenizer = numbered()
    tokenizer.chat_template = (
        "{% for m in messages %}w11 {{ m['content'] }} w12{% endfor %}{% if add_generation_prompt %} w13{% endif %}"
    )
    judge_by_chat = LocalJudge(model.train(), tokenizer, ratings=(1, 3), pair_template="{prompt} {a} {b}")
    assert not judge_by_chat.model.training
    probabilities = next_probabilities(model, "w11 w1 w4 w8 w12 w13")
    asked = judge_by_chat.answer_probabilities(["w1 w4 w8"], questions.PAIR_ANSWERS)
    tokens = numbered().convert_tokens_to_ids(["A", "B"])
    assert asked[0].tolist() == pytest.approx(probabilities[tokens].tolist(), rel=1e-4)


def test_answers_that_are_not_one_token_are_refused():
    assert answer_tokens(numbered(), "1") == numbered().convert_tokens_to_ids(["1"])
    local, _ = local_judge(ratings=(1, 10))
    with pytest.raises(UserError, match="is not one token for the judge"):
        local(prompts=["w1"], completions=["w2"])


def test_questions_beyond_the_context_are_refused():
    local, model = local_judge()
    length = len(numbered()("w1 w2 w9")["input_ids"])
    model.config.max_position_embeddings = length
    assert local(prompts=["w1"], completions=["w2"])[0] is not None
    model.config.max_position_embeddings = length - 1
    with pytest.raises(UserError, match="longer than the judge's context"):
        local(prompts=["w1"], completions=["w2"])


def test_a_local_judge_by_its_name(tmp_path):
    model, tokenizer = local_judge()[1], numbered()
    model.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    (tmp_path / "question.txt").write_text("{completion} w1")
    spec = f"{tmp_path}/judge&highest=3&min_mass=0&template_file={tmp_path}/question.txt"
    made = load_function(f"reward_models.local_judge:local?checkpoint={spec}")
    assert made.__name__ == "judge" and 1 < made(prompts=["w2"], completions=["w3"])[0] < 3


# ---- An endpoint ----


def api_judge(server, **options) -> ApiJudge:
    options = {
        "backoff": 0.001,
        "timeout": 20.0,
        "template": "{prompt}|{completion}",
        "pair_template": "{a}|{b}",
    } | options
    return ApiJudge(server.url, "org/some-judge", **options)


def test_an_endpoint_gets_a_request_per_completion(server):
    server.answer = lambda question, attempt: f"Rating: {question[-1]}"
    made = api_judge(server, api_key_env="JUDGE_KEY", concurrency=3)
    replies = [f"reply {index % 5 + 1}" for index in range(20)]
    assert made(prompts=["p"] * 20, completions=replies) == [index % 5 + 1.0 for index in range(20)]
    assert len(server.requests) == 20 and made.__name__ == "some-judge"
    method, path, headers, body = server.requests[0]
    assert (method, path, headers["Authorization"]) == ("POST", "/v1/chat/completions", f"Bearer {KEY}")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("org/some-judge", 0, 64)
    assert "Authorization" not in (api_judge(server)(prompts=["p"], completions=["1"]) and server.requests[-1][2])


def test_the_clients_own_variables_reach_no_endpoint(server, monkeypatch):
    """The openai client reads several; a key of another service must not go to this one."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "ambient-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer ambient-secret")
    api_judge(server)(prompts=["p"], completions=["r"])
    api_judge(server, api_key_env="JUDGE_KEY")(prompts=["p"], completions=["r"])
    assert "ambient-secret" not in "".join(str(headers) for _, _, headers, _ in server.requests)
    assert [headers.get("Authorization") for _, _, headers, _ in server.requests] == [None, f"Bearer {KEY}"]


def test_the_key_is_read_at_each_request_and_logged_nowhere(server, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    made = api_judge(server, api_key_env="JUDGE_KEY")
    made(prompts=["p"], completions=["r"])
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}-next")
    made(prompts=["p"], completions=["r"])
    assert [headers["Authorization"] for _, _, headers, _ in server.requests] == [f"Bearer {KEY}", f"Bearer {KEY}-next"]
    assert "HTTP Request" in caplog.text and KEY not in caplog.text


def test_an_excerpt_of_a_response_shows_no_part_of_the_key(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")  # a line break around a key is no part of it
    for response in ((403, "x" * 290 + KEY, {}), (200, "x" * 290 + KEY, {})):
        server.answer = lambda question, attempt, response=response: response
        with pytest.raises(UserError) as caught:
            api_judge(server, api_key_env="JUDGE_KEY", retries=0)(prompts=["p"], completions=["r"])
        assert "x" * 200 in str(caught.value) and KEY[:8] not in str(caught.value)
    assert {headers["Authorization"] for _, _, headers, _ in server.requests} == {f"Bearer {KEY}"}


def test_the_client_is_imported_when_a_judge_is_made(monkeypatch):
    program = "import sys, reward_models.judges.api; sys.exit('openai' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'alignment-pipeline\[judge\]'"):
        ApiJudge("http://localhost:1", "m")


def test_requests_run_in_parallel(server):
    together = threading.Barrier(3, timeout=10)
    server.answer = lambda question, attempt: together.wait() is not None and "3"
    assert api_judge(server, concurrency=3, retries=0)(prompts=["p"] * 3, completions=["a", "b", "c"]) == [3.0] * 3


def test_the_endpoint_compares(server):
    server.answer = lambda question, attempt: "A" if question.split("|")[0] >= question.split("|")[1] else "B"
    made = api_judge(server)
    assert made.compare(["", ""], ["z", "a"], ["b", "b"]) == [1.0, 0.0]
    both = judge_in_both_positions(made, ["", "", ""], ["z", "a", "m"], ["b", "b", "m"])
    assert both.preferences == [1.0, 0.0, 0.5]


def test_transient_failures_are_retried(server):
    def answer(question, attempt):
        return [(503, "busy", {}), (429, "slow", {"Retry-After": "0"}), (200, "not json", {}), "5"][attempt - 1]

    server.answer = answer
    assert api_judge(server, retries=3)(prompts=["p"], completions=["r"]) == [5.0]
    assert len(server.requests) == 4


def test_waits_double_and_follow_retry_after(server, monkeypatch):
    waits = []
    monkeypatch.setattr(ApiJudge, "_wait", lambda judge, seconds: waits.append(seconds))
    said = [
        (503, "busy", {}),
        (429, "slow", {"Retry-After": "7"}),
        (503, "busy", {}),
        (429, "", {"Retry-After": "900"}),
    ]
    server.answer = lambda question, attempt: said[attempt - 1]
    with pytest.raises(UserError, match="no answer from"):
        api_judge(server, retries=3, backoff=1.0)(prompts=["p"], completions=["r"])
    assert waits == [1.0, 7.0, 14.0] and len(server.requests) == 4
    server.attempts.clear()
    server.answer = lambda question, attempt: [(429, "", {"Retry-After": "900"}), "3"][attempt - 1]
    assert api_judge(server)(prompts=["p"], completions=["r"]) == [3.0] and waits[-1] == 60.0


def test_requests_that_keep_failing_have_no_rating_and_are_counted(server, caplog):
    server.answer = lambda question, attempt: {"bad": (500, f"broken {KEY}", {}), "odd": "no idea"}.get(
        question[2:], "2"
    )
    made = api_judge(server, retries=1, api_key_env="JUDGE_KEY")
    assert made(prompts=["p"] * 3, completions=["bad", "odd", "good"]) == [None, None, 2.0]
    assert "1 of 3 requests failed: HTTP 500: broken [key]" in caplog.text
    assert "1 of 3 answers cannot be read" in caplog.text and "the first ends with 'no idea'" in caplog.text
    assert made.tally == {"asked": 3, "failed": 1, "unreadable": 1}
    with pytest.raises(UserError, match="no answer from") as caught:
        made(prompts=["p"], completions=["bad"])
    assert KEY not in str(caught.value) + caplog.text + repr(vars(made))


def test_the_share_of_unread_answers_is_logged_per_call(server):
    made = api_judge(server)
    for said, share in (("Rating: 4", 0.0), ("Rating: 4 or 5", 0.5)):
        server.answer = lambda question, attempt, said=said: {"odd": said}.get(question[2:], "2")
        logged = {}
        made(prompts=["p"] * 2, completions=["odd", "good"], log_metric=logged.__setitem__)
        assert logged == {"some-judge/unreadable": share, "some-judge/failed": 0.0}


@pytest.mark.parametrize(
    ("content", "reason", "rating"),
    [
        ("Rating: 1", "stop", 1.0),
        ("Rating: 1", "length", None),  # of 10, it may be
        ("Rating: 7\nIt is right, but", "length", 7.0),
        ("It is right.\nRating: 1", "length", None),
        ("", "length", None),
        (None, "length", None),
    ],
)
def test_only_the_first_line_of_a_cut_answer_is_read(server, caplog, content, reason, rating):
    body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": reason}]})
    server.answer = lambda question, attempt: (200, body, {})
    made = api_judge(server, ratings=(1, 10), retries=0)
    assert made(prompts=["p"], completions=["r"]) == [rating]
    assert ("1 answers are cut off at max_tokens=64" in caplog.text) is (rating is None)


def test_the_questions_name_the_form_that_is_read(server):
    """The judge is asked for the lines that judge_answers.py reads; an echo of the question is no answer."""
    made = ApiJudge(server.url, "m")
    asked = []
    for said in ("Verdict: B", "echo"):
        server.answer = lambda question, attempt, said=said: question if said == "echo" else said
        asked.append((made.compare(["p"], ["x"], ["y"]), made(prompts=["p"], completions=["x"])))
    assert asked == [([0.0], [None]), ([None], [None])]
    server.answer = lambda question, attempt: "Rating: 2"
    assert made(prompts=["p"], completions=["Rating: 5\nVerdict: A"]) == [2.0]


def test_a_refusal_is_reported_at_once_without_the_key(server):
    server.answer = lambda question, attempt: (401, f"wrong key {KEY}", {})
    with pytest.raises(UserError, match="refuses the request") as caught:
        api_judge(server, api_key_env="JUDGE_KEY")(prompts=["p"], completions=["r"])
    assert "wrong key [key]" in str(caught.value) and KEY not in str(caught.value)
    assert len(server.requests) == 1


def test_the_key_goes_to_no_other_host(server):
    server.answer = lambda question, attempt: (302, "", {"Location": f"{server.url}/elsewhere"})
    with pytest.raises(UserError, match="refuses the request"):
        api_judge(server, api_key_env="JUDGE_KEY")(prompts=["p"], completions=["r"])
    assert [path for _, path, _, _ in server.requests] == ["/v1/chat/completions"]


def test_a_request_times_out(server):
    release = threading.Event()
    server.answer = lambda question, attempt: release.wait(20) and "3"
    try:
        with pytest.raises(UserError, match="timed out"):
            api_judge(server, timeout=0.2, retries=0)(prompts=["p"], completions=["r"])
    finally:
        release.set()


def test_an_endpoint_by_its_name(server):
    spec = f"reward_models.api_judge:api?base_url={server.url}&model=some-judge&highest=10&api_key_env=JUDGE_KEY"
    server.answer = lambda question, attempt: "9"
    assert load_function(spec)(prompts=["p"], completions=["r"]) == [9.0]
    assert "from 1 (useless or harmful) to 10 (excellent)" in server.requests[0][3]["messages"][0]["content"]


def test_invalid_settings_are_refused(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match="no key in the environment variable JUDGE_KEY"):
        ApiJudge("http://localhost:1", "m", api_key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "first-line\nsecond-line")
    with pytest.raises(UserError, match="JUDGE_KEY is not a key") as caught:
        ApiJudge("http://localhost:1", "m", api_key_env="JUDGE_KEY")
    assert "line" not in str(caught.value)
    with pytest.raises(UserError, match="base_url is not an HTTP address"):
        ApiJudge("file:///etc/passwd", "m")


def test_ratings_are_finite_numbers():
    local, _ = local_judge()
    assert all(math.isfinite(one) for one in local(prompts=["w1"] * 3, completions=["", "w2", "w3"]))
