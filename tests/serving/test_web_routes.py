"""The pages' routes: replies, blind comparisons, votes, log-probabilities, and what they refuse."""

import json
import threading
from dataclasses import replace

import pytest
from check_cases import Case
from served_tiny import engine_of, get, post, save_gpt, served_llama, settled
from web_tiny import web_of

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import prepare
from alignment.serving.api.gate import Guard
from alignment.serving.batching.served_models import load_models, read_names
from alignment.serving.web import blind_comparisons
from alignment.serving.web.page_files import HEADERS, page_files
from alignment.serving.web.reply_scores import spans
from alignment.serving.web.web_routes import page_paths

ASKED = {"messages": [{"role": "user", "content": "one two"}], "max_tokens": 6, "seed": 3, "temperature": 1.0}
BOTH = ["base", "sft"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = [f"base={save_gpt(folder / 'gpt')}", f"sft={served_llama(folder / 'llama')}"]
    first, second = load_models(read_names(paths), "cpu")
    with engine_of(first) as base, engine_of(second) as sft:
        yield {"base": base, "sft": sft}


@pytest.fixture(scope="module")
def place(engines, tmp_path_factory):
    """(url, what the routes share)."""
    with web_of(list(engines.values()), tmp_path_factory.mktemp("votes") / "votes.jsonl") as found:
        yield found


@pytest.fixture
def url(place):
    return place[0]


@pytest.fixture
def votes(place, tmp_path):
    """A new file of votes."""
    place[1].votes.path = tmp_path / "votes.jsonl"
    return place[1].votes.path


def streamed(response) -> tuple[str, dict]:
    """The text of a stream, and its last event."""
    assert response.status_code == 200, response.text
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line]
    assert not any(name in response.text for name in BOTH)
    return "".join(event.get("text", "") for event in events), events[-1]


def compared(url, **changes) -> tuple[str, dict[str, str]]:
    """The id of a new comparison, and its replies."""
    began = post(url, "/web/comparisons", json=ASKED | {"models": BOTH} | changes)
    assert began.status_code == 200 and began.json().keys() == {"id"}, began.text
    id = began.json()["id"]
    return id, {side: streamed(post(url, f"/web/comparisons/{id}/{side}", json={}))[0] for side in "ab"}


def cast(url, id, vote):
    return post(url, f"/web/comparisons/{id}/vote", json={"vote": vote})


def said_by_api(url, model, **changes) -> str:
    body = {name: value for name, value in (ASKED | changes).items() if name != "models"}
    return post(url, json=body | {"model": model}).json()["choices"][0]["message"]["content"]


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_page_says_what_the_api_says(url):
    for model in BOTH:
        text, last = streamed(post(url, "/web/reply", json=ASKED | {"model": model}))
        assert text == said_by_api(url, model)
        assert last == {"ended": {"reason": "length", "tokens": 6, "seed": 3}}


def test_a_reply_is_as_long_as_the_context_allows(url):
    long = {"messages": [{"role": "user", "content": "a" * 200}], "max_tokens": 1000}
    _, last = streamed(post(url, "/web/reply", json=ASKED | long | {"model": "base"}))
    assert 0 < last["ended"]["tokens"] < 56
    too_long = {"messages": [{"role": "user", "content": "a" * 300}]}
    assert post(url, "/web/reply", json=ASKED | too_long | {"model": "base"}).status_code == 400


def test_blind_votes_map_to_the_models_whichever_side_they_were_shown_on(url, votes):
    expected = {model: said_by_api(url, model) for model in BOTH}
    assert expected["base"] != expected["sft"]
    orders = set()
    for number in range(8):
        id, replies = compared(url)
        vote = ("a", "b", "tie", "both_bad")[number % 4]
        shown = cast(url, id, vote).json()
        orders.add(shown["models"]["a"])
        row = rows(votes)[-1]
        # What was said, what was revealed and what was stored are of the same models.
        assert {side: expected[model] for side, model in shown["models"].items()} == replies == row["replies"]
        assert {side: model["name"] for side, model in row["models"].items()} == shown["models"]
        if vote in ("a", "b"):
            other = "b" if vote == "a" else "a"
            assert row["chosen"] == [{"role": "assistant", "content": expected[shown["models"][vote]]}]
            assert row["rejected"] == [{"role": "assistant", "content": expected[shown["models"][other]]}]
        else:
            assert row["chosen"] is row["rejected"] is None
    assert orders == set(BOTH)
    assert [row["vote"] for row in rows(votes)] == ["a", "b", "tie", "both_bad"] * 2


def test_a_row_has_what_is_needed_to_repeat_it(url, votes, engines):
    system = [{"role": "system", "content": "one"}, *ASKED["messages"]]
    id, _ = compared(url, messages=system, seed=None)
    cast(url, id, "a")
    (row,) = rows(votes)
    assert row["prompt"] == system and row["id"] == id and row["time"].endswith("+00:00")
    assert row["settings"] | {"seed": 0} == {"temperature": 1.0, "seed": 0, "max_tokens": 6}
    digests = {name: engine.served.digest for name, engine in engines.items()}
    for side in "ab":
        model = row["models"][side]
        assert model["digest"] == digests[model["name"]]
        again = said_by_api(url, model["name"], messages=system, seed=row["settings"]["seed"])
        assert again == row["replies"][side]


def test_a_comparison_takes_one_vote_with_both_replies(url, votes):
    id = post(url, "/web/comparisons", json=ASKED | {"models": BOTH}).json()["id"]
    assert cast(url, id, "a").status_code == 409
    streamed(post(url, f"/web/comparisons/{id}/a", json={}))
    assert "needs both replies" in cast(url, id, "a").text
    assert post(url, f"/web/comparisons/{id}/a", json={}).status_code == 409
    streamed(post(url, f"/web/comparisons/{id}/b", json={}))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(cast(url, id, "b").status_code)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409, 409, 409] and len(rows(votes)) == 1


def test_neither_of_two_replies_that_are_the_same_is_better(url, votes, place):
    """Such rows would teach nothing, and the reader of preferences drops them as a defect."""
    id, _ = compared(url)
    sides = place[1].comparisons.kept[id].sides
    sides["a"].reply = replace(sides["b"].reply, text=f" {sides['b'].reply.text}")
    assert cast(url, id, "a").status_code == 409 and not votes.exists()
    assert cast(url, id, "tie").status_code == 200


def test_votes_are_taken_for_replies_of_this_server_alone(url, votes):
    id, _ = compared(url)
    for wrong in ("guess", "../x", "%2e%2e", id[:-1]):
        assert cast(url, wrong, "a").status_code == 404
    assert cast(url, id, "better").status_code == 400
    forged = {"vote": "a", "replies": {"a": "x", "b": "y"}}
    assert post(url, f"/web/comparisons/{id}/vote", json=forged).status_code == 400
    assert not votes.exists()


def test_a_vote_that_cannot_be_stored_can_be_repeated(url, votes, place, monkeypatch):
    id, _ = compared(url)

    def full(row):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place[1].votes, "append", full)
        failed = cast(url, id, "a")
    assert failed.status_code == 503 and "No space left" in failed.text
    assert cast(url, id, "a").status_code == 200 and len(rows(votes)) == 1


def test_old_comparisons_are_forgotten(url, votes, place, monkeypatch):
    monkeypatch.setattr(blind_comparisons, "MOST_KEPT", 2)
    ids = [compared(url, max_tokens=1)[0] for _ in range(3)]
    assert [cast(url, id, "tie").status_code for id in ids] == [404, 200, 200]
    assert len(place[1].comparisons.kept) == 2


def test_a_client_that_leaves_can_ask_again(url, votes, engines):
    import httpx2 as httpx

    id = post(url, "/web/comparisons", json=ASKED | {"models": BOTH, "max_tokens": 200, "temperature": 0}).json()["id"]
    with httpx.stream("POST", f"{url}/web/comparisons/{id}/a", json={}, verify=False) as stream:
        next(stream.iter_lines())
    assert all(settled(engine) for engine in engines.values())
    assert streamed(post(url, f"/web/comparisons/{id}/a", json={}))[1]["ended"]


def test_errors_of_a_blind_comparison_name_no_model(url, votes, place, monkeypatch):
    from alignment.serving.batching.pending_replies import QueueFull

    def full(self, request):
        raise QueueFull("sft has room for 0 more replies")

    id = post(url, "/web/comparisons", json=ASKED | {"models": BOTH}).json()["id"]
    with monkeypatch.context() as patch:
        patch.setattr("alignment.serving.batching.engine.Engine.submit", full)
        refused = post(url, f"/web/comparisons/{id}/a", json={})
    assert refused.status_code == 429 and "sft" not in refused.text
    assert streamed(post(url, f"/web/comparisons/{id}/a", json={}))[1]["ended"]


@pytest.mark.parametrize(
    ("status", "path", "body"),
    [
        (404, "/web/reply", ASKED | {"model": "/etc/passwd"}),
        (404, "/web/score", {"model": "gpt2", "messages": ASKED["messages"], "reply": "x"}),
        (404, "/web/comparisons", ASKED | {"models": ["base", "../sft"]}),
        (400, "/web/comparisons", ASKED | {"models": ["base"]}),
        (400, "/web/comparisons", ASKED | {"models": ["base", "base"]}),
        (400, "/web/comparisons", ASKED | {"models": BOTH, "votes": "/tmp/x"}),
        (400, "/web/comparisons", ASKED | {"models": BOTH, "messages": [{"role": "assistant", "content": "x"}]}),
        (400, "/web/comparisons", ASKED | {"models": BOTH, "messages": [{"role": "user", "content": "x" * 300}]}),
        (400, "/web/reply", ASKED | {"model": "base", "temperature": 3}),
        (400, "/web/reply", ASKED | {"model": "base", "seed": "1"}),
        (400, "/web/score", {"model": "base", "messages": ASKED["messages"], "reply": "x" * 300}),
        (400, "/web/score", {"model": "base", "messages": ASKED["messages"], "reply": ""}),
        (413, "/web/reply", ASKED | {"model": "x" * 2**22}),
        (404, "/web/../../../etc/passwd", {}),
    ],
)
def test_what_is_refused(url, status, path, body):
    found = post(url, path, json=body)
    assert found.status_code == status and found.json()["error"]["message"], found.text


def test_other_sites_are_refused(url):
    for path in ("/", "/web/settings"):
        assert get(url + path, headers={"Host": "evil.example"}).status_code == 400
    crossed = {"Origin": "http://evil.example"}
    assert post(url, "/web/comparisons", json=ASKED | {"models": BOTH}, headers=crossed).status_code == 403
    plain = {"Content-Type": "text/plain"}
    assert post(url, "/web/comparisons", content=json.dumps(ASKED), headers=plain).status_code == 415


def test_pages_load_nothing_from_elsewhere(url):
    for path in page_files():
        found = get(url + path)
        assert (
            found.status_code == 200 and found.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
        )
        assert "http" not in found.text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
        assert "innerHTML" not in found.text and "style=" not in found.text and "onclick=" not in found.text
    for path in ("/web/", "/web/../pages/chat.html", "/web/chat.html", "/web/votes.jsonl", "/web/%2e%2e/votes_file.py"):
        assert get(url + path).status_code == 404


def test_a_key_protects_all_but_the_pages(engines, tmp_path):
    guard = Guard(api_key="secret", open_paths=["/health", *page_paths()])
    with web_of(list(engines.values()), tmp_path / "v.jsonl", guard=guard) as (url, _):
        assert all(get(url + path).status_code in (200, 204) for path in page_paths())
        for path in ("/web/settings", "/web/results", "/web/items"):
            assert get(url + path).status_code == 401
        assert get(f"{url}/web/settings", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert post(url, "/web/comparisons", json=ASKED | {"models": BOTH}).status_code == 401


def test_scores_are_those_of_the_api(url, engines):
    """A greedy reply's log-probabilities, generated and scored; the texts of the parts are the reply."""
    greedy = ASKED | {"temperature": 0, "model": "sft", "logprobs": True}
    choice = post(url, json=greedy).json()["choices"][0]
    reply = choice["message"]["content"]
    body = {"model": "sft", "messages": ASKED["messages"], "reply": reply}
    found = post(url, "/web/score", json=body).json()
    assert "".join(token["text"] for token in found["tokens"]) == reply
    ids = engines["sft"].tokenizer(reply, add_special_tokens=False)["input_ids"]
    generated = choice["logprobs"]["content"]
    if len(ids) == len(generated) == found["count"]:  # a text with replacement characters has other tokens
        assert found["total"] == pytest.approx(sum(one["logprob"] for one in generated), abs=1e-3)
    plain = "one two é☃"
    scored = {name: post(url, "/web/score", json=body | {"model": name, "reply": plain}).json() for name in BOTH}
    assert scored["base"]["total"] != scored["sft"]["total"]
    offered = engines["sft"]
    prompt = offered.tokenizer.apply_chat_template(ASKED["messages"], add_generation_prompt=True)["input_ids"]
    ids = offered.tokenizer(plain, add_special_tokens=False)["input_ids"]
    assert scored["sft"]["total"] == pytest.approx(sum(offered.log_probs(prompt, ids)), abs=1e-3)
    assert [one["text"] for one in scored["sft"]["tokens"]][-2:] == ["é", "☃"]


def test_tokens_that_only_together_are_a_character_are_one_part():
    assert spans("aé b", [1, 2, 2, 4], [-1.0, -2.0, -3.0, -4.0]) == [
        {"text": "a", "logprob": -1.0},
        {"text": "é", "logprob": -5.0},
        {"text": " b", "logprob": -4.0},
    ]
    assert spans("", [], []) == []


def test_results_and_items(url, votes):
    assert get(f"{url}/web/results").json()["n"] == 0
    for number, vote in enumerate("aab"):
        cast(url, compared(url, messages=[{"role": "user", "content": f"{number}"}], max_tokens=2)[0], vote)
    found = get(f"{url}/web/results").json()
    assert found["n"] == 3 and found["position"]["first"] == pytest.approx(2 / 3)
    assert found["pairs"][0]["n"] == 3 and get(f"{url}/web/items").json() == {"comparisons": []}
    votes.write_text("no votes\n")
    assert get(f"{url}/web/results").status_code == 503


@pytest.fixture(scope="module")
def cast_votes(place, tmp_path_factory) -> list[dict]:
    """12 votes; every other one names no winner."""
    url, web = place
    web.votes.path = tmp_path_factory.mktemp("many") / "votes.jsonl"
    for number in range(12):
        asked = [{"role": "user", "content": f"question {number}"}]
        cast(url, compared(url, messages=asked, max_tokens=6)[0], ("a", "tie", "b", "both_bad")[number % 4])
    return rows(web.votes.path)


def test_the_reader_of_preferences_takes_the_votes_as_they_are(cast_votes, tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in cast_votes))
    data = prepare(DataArguments(str(path), eval_share=0), "preference", 0)
    decided = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in cast_votes if row["chosen"]]
    assert data.splits["train"].to_list() == decided and len(decided) == 6
    (account,) = data.report.accounts
    assert [(removal.rows, removal.lost) for removal in account.removed] == [(6, False)]
    assert "6 votes without a preferred reply (tie, both bad)" in str(account)


def test_only_votes_may_lack_a_preferred_reply(cast_votes, tmp_path):
    """Nulls in other rows are a defect of the data."""
    for row in cast_votes:
        row = {name: row[name] for name in ("prompt", "chosen", "rejected")}
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    (account,) = prepare(DataArguments(str(tmp_path / "rows.jsonl"), eval_share=0), "preference", 0).report.accounts
    assert [(removal.reason, removal.lost) for removal in account.removed] == [("chosen is missing", True)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_the_check_of_preference_stages_has_no_error(cast_votes, tmp_path, capsys, stage):
    code, printed = Case(tmp_path / stage, stage, {"eval_share": 0.2}, cast_votes).check(capsys)
    assert code == 0 and "6 votes without a preferred reply (tie, both bad)" in printed, printed
