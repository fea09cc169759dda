"""The judge stage: which pairs become rows, by whom and how they are labelled, and that nothing is asked twice."""

import json
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from judge_server import KEY, Server

from alignment.errors import UserError, UserErrors
from alignment.stages import judge
from alignment.stages.made_rows.judged_rows import of_ratings
from alignment.stages.made_rows.read_rows import RowArguments
from reward_models.judges.answer_store import AnswerStore
from reward_models.judges.panel import RatingOpinion
from reward_models.judges.positions import combined

# Prefers the reply with more of the principle's letter; counts what it is asked in the file COUNT.
LETTERS = """
from pathlib import Path
class Letters:
    def compare(self, prompts, a, b, principles):
        with Path(__file__).with_name("asked.txt").open("a") as file:
            file.writelines("x\\n" for _ in prompts)
        counts = [[reply[-1]["content"].count(one) for reply in pair] for one, *pair in zip(principles, a, b)]
        return [0.5 + ((one > other) - (one < other)) / 2 for one, other in counts]
class First:
    def compare(self, prompts, a, b):
        return [1.0] * len(prompts)
"""
PRINCIPLES = [{"name": "many a", "prefer": "a"}, {"name": "many b", "prefer": "b"}]


def pair(number: int, chosen: str, rejected: str, **columns) -> dict:
    return {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected, "number": number} | columns


PAIRS = [
    pair(0, "aa b", "b", gold_chosen=0.3, gold_rejected=0.1),  # a by one principle, a tie by the other
    pair(1, "c", "ab", gold_chosen=0.9, gold_rejected=0.2),  # the rejected reply by both
    pair(2, "aa", "bb"),  # one principle each: a tie of the mean
    pair(3, "c", "d"),  # ties
    pair(4, "aabb", "c", gold_chosen=-0.1, gold_rejected=0.4),
] + [pair(number, "a" * number, "c") for number in range(5, 12)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("letters.py").write_text(LETTERS)
    Path("principles.yaml").write_text(yaml.safe_dump(PRINCIPLES))
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return tmp_path


def run(name: str = "run/judge", file: str = "pairs.jsonl", **keys):
    keys = {"judges": ["letters.py:Letters"], "principles": "principles.yaml", "rows_per_part": 4} | keys
    return judge.run(judge.JudgeRecipe(name, **keys), RowArguments(file))


def rows(name: str = "run/judge") -> dict[int, dict]:
    files = sorted(Path(name, "data").glob("*.parquet"))
    return {row["number"]: row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()}


def left_out(name: str = "run/judge") -> dict[int, str]:
    lines = Path(name, "data/left_out.jsonl").read_text().splitlines()
    return {row["number"]: row["left_out"] for row in map(json.loads, lines)}


def said(row: dict) -> tuple[str, str]:
    return row["chosen"][-1]["content"], row["rejected"][-1]["content"]


def test_the_preferred_reply_is_chosen_and_what_belongs_to_a_reply_follows_it(folder):
    result = run()
    made = rows()
    assert sorted(made) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11]
    assert said(made[0]) == ("aa b", "b") and made[0]["preference"] == 0.75
    assert said(made[1]) == ("ab", "c") and made[1]["preference"] == 1
    assert (made[1]["gold_chosen"], made[1]["gold_rejected"]) == (0.2, 0.9)
    assert left_out() == {2: "tie", 3: "tie"}
    assert result.metrics["counts"]["pairs left out: tie"] == 2
    assert result.metrics["counts"]["Letters: asked"] == 4 * len(PAIRS)
    assert result.metrics["rows"] + len(left_out()) == result.metrics["read"] == len(PAIRS)


def test_answers_are_kept_for_the_chosen_reply(folder):
    run()
    (by_a, by_b) = rows()[1]["judged"]
    assert (by_a["principle"], by_a["preference"], by_a["a_first"], by_a["b_first"]) == ("many a", 1, 1, 0)
    assert (by_b["principle"], by_b["preference"]) == ("many b", 1)


def test_a_judge_of_the_first_reply_has_no_preference(folder):
    with pytest.raises(UserError, match="made no row"):
        run(judges=["letters.py:First"], principles=None)


def test_confidence_and_agreement_leave_pairs_out(folder):
    run(min_confidence=0.8)
    assert left_out()[0] == "confidence below min_confidence"
    assert 1 not in left_out()
    with pytest.raises(UserError, match="answers that disagree: 10"):
        run("run/second", judges=["letters.py:Letters", "letters.py:First"], require_agreement=True)


def test_a_class_may_give_probabilities(folder):
    """Two pairs; about the second one, either order of showing prefers the reply shown first."""
    Path("sure.py").write_text(
        "P = {'a': 0.9, 'bb': 0.2, 'c': 0.6, 'dd': 0.7}\n"
        "class Sure:\n"
        "    def compare(self, prompts, a, b):\n"
        "        return [P[one[-1]['content']] for one in a]\n"
    )
    some = [pair(0, "a", "bb"), pair(1, "c", "dd")]
    Path("some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    result = run(file="some.jsonl", judges=["sure.py:Sure"], principles=None)
    made = rows()
    assert said(made[0]) == ("a", "bb") and made[0]["preference"] == pytest.approx(0.85)
    assert said(made[1]) == ("dd", "c") and made[1]["preference"] == pytest.approx(0.55)
    counts = result.metrics["counts"]
    assert (counts["Sure: graded"], counts["Sure: inconsistent"]) == (4, 1)


def test_one_principle_is_drawn_by_the_rows_content(folder):
    run(principles_per_row="one")
    one = {number: row["judged"] for number, row in rows().items()}
    assert all(len(judged) == 1 for judged in one.values())
    lines = Path("pairs.jsonl").read_text().splitlines(keepends=True)
    Path("turned.jsonl").write_text("".join(reversed(lines)))
    run("run/turned", file="turned.jsonl", principles_per_row="one", rows_per_part=3)
    assert {number: row["judged"] for number, row in rows("run/turned").items()} == one


def test_drawn_labels_are_right_as_often_as_the_judge_says(folder):
    many = [pair(number, f"a {number}", f"c {number} b", part=number) for number in range(400)]
    Path("many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    Path("principles.yaml").write_text(yaml.safe_dump([*PRINCIPLES, {"name": "more a", "prefer": "a"}]))
    run(file="many.jsonl", labels="drawn", rows_per_part=100)
    made = rows()
    first = sum(said(row)[0].startswith("a") for row in made.values())
    assert len(made) == 400 and 220 < first < 313  # 2 of 3 principles: 267, within five standard errors
    assert {round(row["preference"], 3) for row in made.values()} == {0.667, 0.333}
    run("run/likelier", file="many.jsonl", rows_per_part=100)
    assert {round(row["preference"], 3) for row in rows("run/likelier").values()} == {0.667}


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_stage_that_was_killed_asks_nothing_twice_and_gives_the_same_rows(folder, part, monkeypatch):
    run("run/whole")
    asked = len(Path("asked.txt").read_text().split())
    Path("asked.txt").unlink()
    write = judge.DataRun.make

    def killed(self, items, make, unit):
        def until(start, some):
            if start >= 4 * part:
                make(start, some)
                raise KeyboardInterrupt  # after the judge has answered, before the part is written
            return make(start, some)

        write(self, items, until, unit)

    with monkeypatch.context() as patched:
        patched.setattr(judge.DataRun, "make", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not Path("run/judge/data").exists()
    run()
    assert len(Path("asked.txt").read_text().split()) == asked
    assert rows() == rows("run/whole")
    assert left_out() == left_out("run/whole")


def test_code_is_asked_again_by_a_run_that_is_no_resume(folder):
    """It may import what has changed."""
    Path("letters.py").write_text("import wanted\n" + LETTERS.replace(".count(one)", ".count(wanted.letter(one))"))
    Path("wanted.py").write_text("def letter(one):\n    return one\n")
    run()
    sys.modules.pop("wanted")
    Path("wanted.py").write_text("def letter(one):\n    return 'c'  # another\n")
    run()
    assert said(rows()[4]) == ("c", "aabb")


def test_the_card_finds_what_the_judge_gets_wrong(folder):
    card = run().metrics["judge_card"]
    assert card["gold"] == 6  # three pairs with gold scores, by two principles
    assert card["agreement"]["value"] == pytest.approx((0.5 + 1 + 0 + 0 + 0 + 0) / 6)
    assert card["consistency"]["value"] == 1


def test_gold_by_principle(folder):
    Path("gold.py").write_text(
        "def by(completions, principle, **columns):\n"
        "    return [one[-1]['content'].count(name[-1]) for one, name in zip(completions, principle)]\n"
    )
    card = run(gold_func="gold.py:by").metrics["judge_card"]
    assert {one["name"]: one["value"] for one in card["by_principle"]} == {"many a": 1, "many b": 1}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"gold_func": "gold.py:raises"}, "broken gold"),
        ({"gold_func": "gold.py:few"}, "number of"),
        ({"gold_func": "gold.py:needs"}, "column"),
        ({"min_agreement": 0.5, "file": "plain.jsonl"}, "min_agreement needs the truth"),
    ],
)
def test_a_card_that_would_fail_is_found_before_a_judge_is_asked(folder, keys, says):
    Path("gold.py").write_text(
        "def raises(completions, **columns):\n    raise ValueError('broken gold')\n"
        "def few(completions, **columns):\n    return [1.0]\n"
        "def needs(completions, truth, **columns):\n    return [1.0] * len(completions)\n"
    )
    Path("plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS if "gold_chosen" not in row))
    with pytest.raises(UserError, match=says):
        run(**keys)
    assert not Path("asked.txt").exists()


def test_a_judge_beyond_the_limits_stops_the_stage_and_keeps_its_answers(folder):
    many = [pair(number, f"a{number}", f"b{number}") for number in range(60)]
    Path("many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    with pytest.raises(UserError, match="beyond the limits"):
        run(file="many.jsonl", judges=["letters.py:First"], principles=None, max_position_bias=0.2)
    assert not Path("run/judge/data").exists()
    assert Path("run/answers/judge.jsonl").read_text() and json.loads(Path("run/judge/judge_card.json").read_text())


def test_ratings_decide_if_they_are_asked_for(folder):
    Path("principles.yaml").write_text(yaml.safe_dump([{"name": "long", "rate": "How long?"}]))
    Path("rater.py").write_text(
        "def long(completions, **columns):\n    return [float(len(one[-1]['content'])) for one in completions]\n"
    )
    run(judges=["rater.py:long"], ask="ratings")
    assert said(rows()[1]) == ("ab", "c") and rows()[1]["judged"][0]["a_first"] == 2


def longer(question: str, attempt: int) -> str:
    if "[Reply A]" not in question:  # the first question, whether anybody is there
        return "Verdict: A"
    a, b = question.split("[Reply A]\n")[1].split("\n\n[Reply B]\n")
    b = b.split("\n\n")[0]
    return "Verdict: tie" if len(a) == len(b) else f"Verdict: {'A' if len(a) > len(b) else 'B'}"


def test_a_budget_is_for_the_whole_stage(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = Server()
    try:
        name = f"reward_models.api_judge:api?base_url={server.url}&model=m&retries=0"
        server.answer = longer
        with pytest.raises(UserError, match="over budget"):
            run(judges=[name], principles=None, max_requests=0)
        run("run/some", judges=[name], principles=None, max_requests=10)
    finally:
        server.http.shutdown()
        server.http.server_close()
    counts = json.loads(Path("run/some/stage.json").read_text())["metrics"]["counts"]
    assert counts["requests"] == 10
    assert counts["pairs left out: no opinion: over budget"] == len(PAIRS) - 5


def test_a_judge_that_cannot_be_read_is_shown_and_asked_again_without_its_answers(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = Server()
    keys = {"judges": [f"reward_models.api_judge:api?base_url={server.url}&model=m&retries=0"], "principles": None}
    try:
        server.answer = lambda question, attempt: "I like both of them."
        for _ in range(2):
            with pytest.raises(UserError, match="made no row") as caught:
                run(**keys)
            assert "judge_card.md" in caught.value.fix and "'I like both of them.'" in caught.value.fix
            assert not list(Path("run/judge/parts").glob("*"))
        assert set(server.asked().values()) == {1}  # its answers are kept
        server.answer = longer
        Path("run/answers/judge.jsonl").unlink()  # the file of the message
        assert "run/answers/judge.jsonl" in caught.value.fix
        run(**keys)
    finally:
        server.http.shutdown()
        server.http.server_close()
    assert len(rows()) > 5 and set(server.asked().values()) == {2}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"judges": []}, "no judge"),
        ({"judges": ["missing.py:Judge"]}, "missing.py"),
        ({"principles": "nowhere.yaml"}, "nowhere.yaml"),
        ({"template": "{principle} {a}"}, "{b}"),
        ({"min_confidence": 0.3}, "min_confidence"),
        ({"batch_size": 0}, "batch_size"),
        ({"min_mass": 2.0}, "min_mass"),
        ({"max_requests": -1}, "max_requests"),
        ({"max_position_bias": -0.1}, "max_position_bias"),
        ({"max_length_bias": 20.0}, "max_length_bias"),
        ({"min_agreement": 70.0}, "min_agreement is out of range"),
        ({"ask": "ratings"}, "rate"),
        ({"gold_func": "nowhere.py:gold"}, "nowhere.py"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(folder, keys, says):
    with pytest.raises((UserError, UserErrors), match=says.replace("{", r"\{")):
        run(**keys)
    assert not Path("run").exists()


def test_what_is_about_a_pairs_order_or_one_reply_does_not_outlive_the_judgement(folder):
    own = {"margin": 2.0, "score_margin": 1.0, "messages": [{"role": "user", "content": "old"}], "chosen_score": 5}
    Path("old.jsonl").write_text(json.dumps(pair(1, "c", "ab", score_chosen=0.9, **own)) + "\n")
    run(file="old.jsonl")
    row = rows()[1]
    assert said(row) == ("ab", "c") and (row["score_rejected"], row["rejected_score"]) == (0.9, 5)
    assert not {"margin", "score_margin", "messages", "score_chosen", "chosen_score"} & row.keys()


def test_ratings_of_judges_that_know_both_replies_decide():
    a = RatingOpinion(4.0, judges={"one": 4.0, "two": None})
    b = RatingOpinion(46.0, judges={"one": 2.0, "two": 90.0})
    assert of_ratings(a, b).preference == 1
    assert of_ratings(a, RatingOpinion(None, "failed", {"one": None, "two": 3.0})).reason == "failed"


def test_ratings_show_no_bias_of_position(folder):
    Path("rater.py").write_text(
        "def long(completions, **columns):\n    return [float(len(one[-1]['content'])) for one in completions]\n"
    )
    card = run(judges=["rater.py:long"], ask="ratings", principles=None).metrics["judge_card"]
    assert card["position_bias"]["value"] is None and card["consistency"]["value"] is None
    assert card["agreement"]["value"] == pytest.approx(1 / 3)  # of three pairs with gold the longer reply is right once
    with pytest.raises((UserError, UserErrors), match="no meaning with ask: ratings"):
        run(judges=["rater.py:long"], ask="ratings", principles=None, max_position_bias=0.1)


GOLD = """
def letters(completions, principle, **columns):
    counts = [(one[-1]["content"].count(name[-1]), name) for one, name in zip(completions, principle)]
    return [None if name == "many c" else float(count) for count, name in counts]
"""


def versus(number: int, a: str, b: str) -> dict:
    return pair(number, a, b, model_a="ppo", model_b="sft")


def write_versus() -> None:
    """A sample stage's rows: four pairs, by the letters a and b better, equal, worse, better; two were equal."""
    some = [("aab", "b"), ("x", "y"), ("x", "aa"), ("ab", "x")]
    lines = [json.dumps(versus(number, *one)) + "\n" for number, one in enumerate(some)]
    Path("final").mkdir()
    Path("final/train.jsonl").write_text("".join(lines))
    Path("final/account.json").write_text(json.dumps({"counts": {"replies": 12, "pairs left out: equal replies": 2}}))
    Path("gold.py").write_text(GOLD)


def test_what_the_policy_inherited_from_its_judge(folder):
    write_versus()
    found = run(file="final", gold_func="gold.py:letters").metrics["judge_card"]["inherited"]
    assert (found["policy"], found["baseline"], found["n"], found["equal"]) == ("ppo", "sft", 6, 2)
    # The judge's gap: 1, 0, -1 or 1 by each principle; gold's: 2 and 0, 0 and 0, -2 and 0, 1 and 1.
    assert found["judge_wins"]["value"] == pytest.approx((1 + 0.5 + 0 + 1 + 0.5 + 0.5) / 6)
    judge_gaps, gold_gaps = [0.5, 0, -0.5, 1, 0, 0], [1, 0, -1, 1, 0, 0]
    for key, gaps in (("judge_gain", judge_gaps), ("gold_gain", gold_gaps)):
        assert found[key] == pytest.approx(sum(gaps) / 6 / (sum(gap**2 for gap in gaps) / 6) ** 0.5)
    assert found["value"] == pytest.approx(found["judge_gain"] - found["gold_gain"]) and found["wins"]["value"] == 0
    assert "The judge prefers ppo over sft on 58.3% of 6 pairs" in Path("run/judge/judge_card.md").read_text()


def test_a_chosen_reply_of_the_baseline_is_a_gain_of_the_baseline(folder):
    write_versus()
    run(file="final", gold_func="gold.py:letters")
    assert (rows()[2]["model_a"], rows()[2]["model_b"], said(rows()[2])) == ("sft", "ppo", ("aa", "x"))
    turned = [versus(number, b, a) for number, (a, b) in enumerate([("aab", "b"), ("x", "aa"), ("aab", "b")])]
    Path("turned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    found = run("run/turned", file="turned.jsonl", gold_func="gold.py:letters").metrics["judge_card"]["inherited"]
    assert found["judge_wins"]["value"] == found["gold_wins"]["value"] == pytest.approx(1 / 3)


def test_principles_without_gold_and_rows_of_many_models_do_not_count(folder):
    write_versus()
    principles = [*PRINCIPLES[:1], {"name": "many c", "prefer": "y"}]
    Path("principles.yaml").write_text(yaml.safe_dump(principles))
    found = run(file="final", gold_func="gold.py:letters").metrics["judge_card"]["inherited"]
    assert found["judge_wins"]["value"] == found["gold_wins"]["value"] == pytest.approx((1 + 0.5 + 0 + 1 + 1) / 6)
    rest = Path("final/train.jsonl").read_text().replace('"model_b": "sft"', '"model_b": "dpo"', 1)
    Path("final/train.jsonl").write_text(rest)
    assert "inherited" not in run("run/many", file="final", gold_func="gold.py:letters").metrics["judge_card"]


def test_ratings_of_two_checkpoints_have_the_scale_of_their_judge(folder):
    """A judge that counts the letter a, as gold does here, and one that gives a thousand for each letter b."""
    write_versus()
    counted = "[float(SIZE * one[-1]['content'].count('LETTER')) for one in completions]"
    rate = f"def LETTER(completions, **columns):\n    return {counted}\n"
    some = [rate.replace("LETTER", letter).replace("SIZE", size) for letter, size in (("a", "1"), ("b", "1000"))]
    Path("rater.py").write_text("".join(some))
    Path("gold.py").write_text(GOLD.replace("name[-1]", "'a'"))
    keys = {"ask": "ratings", "principles": None, "gold_func": "gold.py:letters", "file": "final"}
    one = run("run/one", judges=["rater.py:a"], **keys).metrics["judge_card"]["inherited"]
    assert one["value"] == pytest.approx(0) and one["n"] == 6
    both = run("run/both", judges=["rater.py:a", "rater.py:b"], **keys).metrics["judge_card"]["inherited"]
    # Gaps 2, 0, -2, 1 with a root mean square of 1.5, and 0, 0, 0, 1000 with one of 500.
    gaps = [2 / 1.5 / 2, 0, -2 / 1.5 / 2, (1 / 1.5 + 2) / 2, 0, 0]
    assert both["judge_gain"] == pytest.approx(sum(gaps) / 6 / (sum(gap**2 for gap in gaps) / 6) ** 0.5)


def test_the_equal_pairs_of_rows_that_a_limit_leaves_out_do_not_count(folder):
    write_versus()
    recipe = judge.JudgeRecipe(
        "run/judge", judges=["letters.py:Letters"], principles="principles.yaml", gold_func="gold.py:letters"
    )
    card = judge.run(recipe, RowArguments("final", max_train_samples=2)).metrics["judge_card"]
    assert card["inherited"]["equal"] == 1 and card["inherited"]["n"] == 3


def test_equal_answers_in_both_positions_are_a_tie():
    assert all(combined(one, one).preference == 0.5 for one in (number / 997 for number in range(997)))


def test_a_recipe_is_read_without_its_endpoint_and_a_run_is_not(folder):
    recipe = judge.JudgeRecipe(
        "run/judge", judges=["reward_models.api_judge:api?base_url=http://127.0.0.1:9/v1&model=m"]
    )
    with pytest.raises((UserError, UserErrors), match="no answer"):
        judge.require_outside(recipe, RowArguments("pairs.jsonl"))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    made.answer = longer
    yield made
    made.http.shutdown()
    made.http.server_close()


def endpoint(server, options: str = "retries=0") -> dict:
    return {"judges": [f"reward_models.api_judge:api?base_url={server.url}&model=m&{options}"], "principles": None}


def counts(name: str = "run/judge") -> dict[str, int]:
    return json.loads(Path(name, "stage.json").read_text())["metrics"]["counts"]


def test_a_question_that_recurs_in_a_later_part_is_one_request(folder, server):
    twice = [row | {"number": row["number"] + 100 * repeat} for repeat in range(2) for row in PAIRS]
    Path("twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in twice))
    run(file="twice.jsonl", max_requests=2 * len(PAIRS), **endpoint(server))
    assert counts()["requests"] == counts()["m: asked"] == len(server.asked()) == 2 * len(PAIRS)
    assert counts()["m: from store"] == 2 * len(PAIRS)
    assert "pairs left out: no opinion: over budget" not in counts()


class Troubled:
    """Answers as `longer`, but for each question after trouble of its own; `dead` answers nobody.

    Attributes:
        answered: how often each question has got an answer.
    """

    def __init__(self):
        self.dead, self.answered, self.lock = False, Counter(), threading.Lock()

    def __call__(self, question: str, attempt: int):
        number = int(re.search(r"Question (\d+)", question)[1]) if "Question " in question else -1
        if self.dead:
            return 503, "gone", {}
        if attempt == 1 and number % 5 == 1:
            return 429, "slow down", {"Retry-After": "0"}
        if attempt == 1 and number % 5 == 2:
            time.sleep(0.3)  # beyond the timeout
            return None
        if attempt == 1 and number % 5 == 3:
            return None
        if number == 10:
            return 500, "never", {}
        with self.lock:
            self.answered[question] += number >= 0  # the first question, whether anybody is there, is none about a pair
        return "rubbish" if number == 9 else longer(question, attempt)


def test_a_troubled_judge_loses_nothing_is_asked_nothing_twice_and_is_accounted_for(folder, server, monkeypatch):
    """429, timeouts, closed connections, rubbish, a death for a while, and two kills."""
    options = endpoint(server, "retries=1&backoff=0.001&timeout=0.1&concurrency=3")
    server.answer = trouble = Troubled()
    run("run/whole", **options)
    server.attempts.clear()
    server.answer = trouble = Troubled()
    put = AnswerStore.put
    for kept in (3, 9):
        left = [kept]

        def killed(store, key, answer, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            put(store, key, answer)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(AnswerStore, "put", killed)
            run(**options)
    lost = sum(trouble.answered.values()) - 12  # answers that were on their way when the process was killed
    trouble.dead = True
    with pytest.raises(UserError, match="gone"):
        run(**options)
    trouble.dead = False
    run(**options)
    assert rows() == rows("run/whole") and left_out() == left_out("run/whole")
    assert left_out()[10] == "no opinion: failed" and left_out()[9] == "no opinion: unreadable"
    assert 2 <= lost <= 2 * 3  # of two kills, each with at most three requests under way
    assert sum(trouble.answered.values()) == 2 * 11 + lost
    varies = {"m: retried"}
    whole, again = (
        {key: one for key, one in counts(name).items() if key not in varies} for name in ("run/whole", "run/judge")
    )
    assert whole == again
    assert again["requests"] == again["m: asked"] == 2 * len(PAIRS) and again["m: failed"] == 2
    assert again["m: unreadable"] == 2
