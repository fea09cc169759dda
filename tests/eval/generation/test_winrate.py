"""Win rates: judges, positions, ties, intervals, and the pairing of outputs."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from alignment.cli.evaluate import winrate
from alignment.errors import UserError
from eval.generation.replies import distinct_n, exact_match, normalised
from eval.generation.winrate import (
    Output,
    compare_outputs,
    extra_words,
    judge_by_comparison,
    judge_by_score,
    keyed,
    length_drift,
    outputs_of_file,
    position_figures,
    side_figures,
    wilson,
    win_rate,
)
from reward_models.judges.positions import agreed


def output(text, prompt="p", **columns):
    return Output({"prompt": [{"role": "user", "content": prompt}], **columns}, text)


def sides(a, b):
    return [[output(text, f"p{i}") for i, text in enumerate(side)] for side in (a, b)]


def length(completions, **columns):
    return [float(len(completion[0]["content"])) or None for completion in completions]


class First:
    """Always prefers the reply that it sees first; records its questions."""

    def __init__(self):
        self.asked = []

    def compare(self, prompts, a, b):
        self.asked.append([(x[0]["content"], y[0]["content"]) for x, y in zip(a, b, strict=True)])
        return [1] * len(prompts)


class Longer:
    def compare(self, prompts, a, b):
        return [float(np.sign(len(x[0]["content"]) - len(y[0]["content"])) + 1) / 2 for x, y in zip(a, b, strict=True)]


def test_a_reward_compares_scores_with_ties_within_epsilon():
    a, b = sides(["xxx", "x", "xx", "", "same"], ["x", "xxx", "x", "x", "same"])
    np.testing.assert_equal(judge_by_score(length, a, b).outcomes, [1, 0, 1, np.nan, 0.5])
    np.testing.assert_equal(judge_by_score(length, a, b, epsilon=1).outcomes, [1, 0, 0.5, np.nan, 0.5])


def test_the_same_text_is_a_tie_even_if_scores_differ_by_rounding():
    a, b = sides(["same", "a"], ["same", "b"])
    noise = iter([[1.0, 2.0], [1.0 + 1e-9, 1.0]])
    assert judge_by_score(lambda **_: next(noise), a, b).outcomes.tolist() == [0.5, 1]


def test_a_judge_is_asked_in_both_positions_and_its_bias_averaged_out():
    a, b = sides(["one", "two", "same"], ["uno", "dos", "same"])
    first = First()
    judged = judge_by_comparison(first, a, b)
    assert first.asked == [[("one", "uno"), ("two", "dos")], [("uno", "one"), ("dos", "two")]]
    assert judged.outcomes.tolist() == [0.5, 0.5, 0.5]
    assert position_figures(judged) == {"first": 1.0, "disagree": 1.0}
    judged = judge_by_comparison(Longer(), *sides(["xxx", "x", "x"], ["x", "xx", "y"]))
    assert judged.outcomes.tolist() == [1, 0, 0.5]
    assert position_figures(judged) == {"first": 0.5, "disagree": 0.0}


def test_no_opinion_in_one_position_is_no_opinion():
    class Shy:
        answers = iter([[1, 1, 0], [None, 0, 0.5]])

        def compare(self, prompts, a, b):
            return next(self.answers)

    judged = judge_by_comparison(Shy(), *sides(["a", "b", "c"], ["x", "y", "z"]))
    np.testing.assert_equal(judged.outcomes, [np.nan, 1, 0.5])
    figures = win_rate(judged.outcomes)
    assert (figures["win"], figures["tie"], figures["loss"], figures["unjudged"], figures["n"]) == (1, 1, 0, 1, 2)


def test_there_is_one_tie_rule_for_both_positions():
    """`align winrate` uses the tie rule of reward_models for all pairs of answers."""
    pairs = list(itertools.product([1, 0.5, 0, None], repeat=2))

    class Says:
        def __init__(self):
            self.calls = 0

        def compare(self, prompts, a, b):
            self.calls += 1
            return [pair[(self.calls - 1) % 2] for pair in pairs]

    judged = judge_by_comparison(Says(), *sides([f"a{i}" for i in range(16)], [f"b{i}" for i in range(16)]))
    expected = np.array([agreed(a, None if b is None else 1 - b) for a, b in pairs], dtype=float)
    np.testing.assert_equal(judged.outcomes, expected)
    assert set(judged.outcomes[~np.isnan(judged.outcomes)]) == {0.0, 0.5, 1.0}


def test_unread_answers_are_counted_in_the_result():
    class Half:
        """Reads every other answer; has a tally from earlier calls."""

        def __init__(self):
            self.tally = Counter(asked=7, unreadable=3)

        def compare(self, prompts, a, b):
            answers = [1 if place % 2 else None for place in range(len(prompts))]
            self.tally.update(asked=len(answers), unreadable=answers.count(None))
            return answers

    a, b = (keyed([output(f"{side}{i}", f"p{i}") for i in range(4)]) for side in "ab")
    found = compare_outputs(a, b, Half())
    assert found["answers"] == {"asked": 8, "unreadable": 4, "failed": 0} and found["unjudged"] == 2
    shown = "\n".join(winrate.lines({"a": "A", "b": "B", "judge": "J", **found}))
    assert "4 of the judge's 8 answers could not be read" in shown
    assert compare_outputs(a, b, length)["answers"] is None

    class Silent(Half):
        def compare(self, prompts, a, b):
            self.tally.update(asked=len(prompts), unreadable=len(prompts))
            return [None] * len(prompts)

    found = compare_outputs(a, b, Silent())
    assert "8 of the judge's 8 answers" in "\n".join(winrate.lines({"a": "A", "b": "B", "judge": "J", **found}))


def test_invalid_answers_of_a_judge_are_refused():
    class Loud:
        def compare(self, prompts, a, b):
            return [3] * len(prompts)

    with pytest.raises(UserError, match="answers of the judge Loud"):
        judge_by_comparison(Loud(), *sides(["a"], ["b"]))


def test_win_rate_by_hand():
    figures = win_rate(np.array([1, 1, 1, 0, 0.5, 0.5, 1, 0]))
    assert figures["win_rate"] == pytest.approx(5 / 8)
    assert figures["se"] == pytest.approx(np.std([1, 1, 1, 0, 0.5, 0.5, 1, 0], ddof=1) / np.sqrt(8))
    assert (figures["win"], figures["tie"], figures["loss"], figures["verdict"]) == (4, 2, 2, "tied")
    one = win_rate(np.ones(50))
    assert one["verdict"] == "a" and one["ci_low"] < 0.95 and one["ci_high"] == 1
    ties = win_rate(np.full(50, 0.5))
    assert ties["verdict"] == "tied" and ties["ci_low"] < 0.5 < ties["ci_high"]
    assert win_rate(np.array([np.nan]))["win_rate"] is None
    alone = win_rate(np.array([1.0]))
    assert alone["ci_low"] is None and alone["verdict"] == "unknown"
    assert win_rate(np.array([np.nan]))["verdict"] == "unknown"


def test_without_ties_or_clusters_it_is_wilsons_interval():
    outcomes = np.array([1.0] * 130 + [0.0] * 70)
    from scipy.stats import binomtest

    figures, known = win_rate(outcomes), binomtest(130, 200).proportion_ci(method="wilson")
    assert figures["ci_low"] == pytest.approx(known.low, abs=2e-3)
    assert figures["ci_high"] == pytest.approx(known.high, abs=2e-3)


def test_intervals_cover_with_clusters_and_ties():
    """About 95% of 95% intervals contain the true rate; far fewer if clustered outcomes count as independent."""
    rng, held, held_unclustered = np.random.default_rng(0), 0, 0
    clusters = np.repeat(np.arange(40), 5)
    for _ in range(400):
        rates = rng.beta(1.4, 0.6, 40)  # 0.7 on average
        draws = rng.random((2, 200))
        outcomes = np.where(draws[1] < 0.3, 0.5, draws[0] < rates[clusters])
        truth = 0.3 * 0.5 + 0.7 * 0.7
        figures = win_rate(outcomes, clusters)
        held += figures["ci_low"] <= truth <= figures["ci_high"]
        low, high = wilson(figures["win_rate"], float(outcomes.std(ddof=1) / np.sqrt(200)), 200)
        held_unclustered += low <= truth <= high
    assert 0.925 <= held / 400 <= 0.975
    assert held_unclustered / 400 < 0.9


def test_only_shared_prompts_are_compared_and_the_rest_counted():
    a = keyed([output("xxx", "p"), output("x", "p"), output("x", "q"), output("x", "r")])
    b = keyed([output("x", "p"), output("xxx", "p"), output("xxxx", "s")])
    found = compare_outputs(a, b, length)
    assert (found["n"], found["only_a"], found["only_b"], found["clusters"]) == (2, 2, 1, 1)
    assert [item["outcome"] for item in found["items"]] == [1, 0]
    assert found["position"] is None
    with pytest.raises(UserError, match="share no prompt"):
        compare_outputs(a, keyed([output("x", "z")]), length)


def test_a_judge_of_length_alone_ties_at_equal_length():
    rng = np.random.default_rng(0)
    words = rng.integers(1, 20, (2, 300)) + np.array([[4], [0]])
    a, b = (keyed([output("w " * count, f"p{i}") for i, count in enumerate(side)]) for side in words)
    found = compare_outputs(a, b, length)
    assert found["win_rate"] > 0.65 and found["verdict"] == "a"
    assert found["length_controlled"]["win_rate"] == pytest.approx(0.5, abs=0.12)
    assert found["length_drift"]["words"] == pytest.approx((words[0] - words[1]).mean())


def test_the_same_side_ties():
    a = keyed([output(f"text {i}", f"p{i}") for i in range(20)])
    found = compare_outputs(a, dict(a), First())
    assert (found["tie"], found["identical"], found["verdict"], found["win_rate"]) == (20, 20, "tied", 0.5)


def test_lengths_and_diversity():
    a, b = sides(["a b c", "a b c d"], ["a", "b"])
    assert extra_words(a, b).tolist() == [2, 3]
    drift = length_drift(np.array([2.0, 3.0]), np.array(["p", "q"]))
    assert drift["words"] == 2.5 and drift["ci_low"] == pytest.approx(2.5 - 12.706 * 0.5, abs=1e-2)
    assert length_drift(np.array([2.0, 3.0]), np.array(["p", "p"]))["ci_low"] is None
    chinese = sides(["\u4f60\u597d\u4e16\u754c\u3002", "x"], ["\u4f60\u597d", "x"])
    assert extra_words(*chinese).tolist() == [2, 0] and side_figures(chinese[0])["words"] == 2.5
    assert distinct_n(["\u4f60\u597d\u4f60\u597d"], 1) == 0.5
    assert distinct_n(["a b a b"], 1) == 0.5
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a", ""], 2) is None
    assert normalised("The  Cat, an owl!") == "cat owl"
    assert exact_match(["A hat.", "boat"], ["hat", ["barn", "the boat"]]) == [1, 1]
    assert exact_match(["hats"], ["hat"]) == [0]


def test_files_of_outputs(tmp_path):
    rows = [
        {"prompt": "p", "completion": "one", "task": "t"},
        {
            "prompt": [{"role": "user", "content": "p"}],
            "completion": [{"role": "assistant", "content": ""}],
            "tokens": 1,
        },
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "two\u2028x"}]},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    found = outputs_of_file(file)
    assert [(key[1], output.text, output.tokens) for key, output in found.items()] == [
        (0, "one", None),
        (1, "", 1),
        (0, "two\u2028x", None),
    ]
    assert next(iter(found.values())).row == {"prompt": [{"role": "user", "content": "p"}], "task": "t"}
    for bad in (
        "{",
        '{"prompt": "p"}',
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": "q"}]}',
        "[]",
        '{"prompt": "p", "completion": 3}',
    ):
        file.write_text(json.dumps(rows[0]) + "\n" + bad)
        with pytest.raises(UserError, match="line 2"):
            outputs_of_file(file)
    file.write_text("\n")
    with pytest.raises(UserError, match="has no outputs"):
        outputs_of_file(file)
