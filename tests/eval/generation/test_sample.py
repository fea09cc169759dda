"""The replies that become rows: truncated replies only on request; and the summary."""

import pytest

from alignment.errors import UserError
from eval.generation.choose import Pair, best, preference_pair
from eval.generation.generate import Sampling
from eval.generation.sampled_rows import Samples, best_rows, completion_rows, draw, pair_rows, summary
from eval.harness.lm import CausalLM, Reply

from ..conftest import make_model

# Text and whether the length limit cut it off, of four prompts.
REPLIES = [
    [("whole", False), ("a long one cut of", True), ("tiny", False)],
    [("cut here to", True), ("and cut", True), ("al so", True)],
    [("one whole", False), ("cut", True), ("cut t", True)],
    [(" ", False), ("cut", True), ("cut off at", True)],
]


def samples(**options) -> Samples:
    """Replies scored by their length, so that truncated replies are the best."""
    rows = [{"prompt": [{"role": "user", "content": f"p{place}"}]} for place in range(len(REPLIES))]
    replies = [[Reply(text, len(text), cut) for text, cut in group] for group in REPLIES]
    scores = [[float(len(text)) for text, _ in group] for group in REPLIES]
    return Samples(rows, replies, scores, **options)


def test_the_best_reply_is_not_truncated():
    rows, without = best_rows(samples())
    assert [row["messages"][-1]["content"] for row in rows] == ["whole", "one whole"]
    assert without == {"all replies truncated": 1, "no reply with text and score, truncated ones left out": 1}
    rows, without = best_rows(samples(keep_truncated=True))
    assert [row["messages"][-1]["content"] for row in rows] == [
        "a long one cut of", "cut here to", "one whole", "cut off at",
    ]  # fmt: skip
    assert not without


@pytest.mark.parametrize("against", ["worst", "random"])
def test_neither_side_of_a_pair_is_truncated(against):
    rows, without = pair_rows(samples(), against, 0.0, seed=0)
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [("whole", "tiny")]
    few = "fewer than two replies with text and score, truncated ones left out"
    assert without == {"all replies truncated": 1, few: 2}
    assert len(pair_rows(samples(keep_truncated=True), against, 0.0, seed=0)[0]) == 4


def test_choosing_by_hand():
    texts, scores = ["a", "b", "c"], [3.0, 2.0, 1.0]
    assert best(texts, scores, [False, True, True]) == 1 and best(texts, scores, [False] * 3) is None
    assert best(texts, scores, [True] * 3) == best(texts, scores) == 0
    pair = [
        preference_pair(texts, scores, "worst", 0, "s", ended) for ended in ([False, True, True], [True, False, True])
    ]
    assert pair == [Pair(1, 2), Pair(0, 2)]
    assert preference_pair(texts, scores, "worst", 0, "s", [False] * 3) == "all replies truncated"
    found = preference_pair(texts, scores, "worst", 0, "s", [True, False, False])
    assert found == "fewer than two replies with text and score, truncated ones left out"


def test_the_summary_counts_truncated_replies():
    out = "\n".join(summary(samples(), chosen=True))
    assert "33.3% ended before the length limit" in out
    assert "8 replies truncated at --max_new_tokens: left out; --keep_truncated keeps them" in out
    assert "best of 3 5.0000 of the replies that ended" in out and "KL" not in out  # (5 + 9 + 1) / 3
    out = "\n".join(summary(samples(keep_truncated=True), chosen=True))
    assert "8 replies truncated at --max_new_tokens: can be chosen" in out and "KL to the checkpoint" in out
    assert "--keep_truncated" not in "\n".join(summary(samples()))


def test_a_completion_says_whether_it_ended_and_none_is_left_out():
    rows = completion_rows(samples())
    assert [row["ended"] for row in rows] == [not cut for group in REPLIES for _, cut in group]


def test_a_reply_that_ends_at_the_limit_is_not_truncated(tokenizer):
    """The end token decides: a reply is whole at a limit of its own length, and truncated at a token less."""
    model = make_model(tokenizer, seed=2)
    model.get_output_embeddings().weight.data[CausalLM(model, tokenizer, 1).stop_ids] *= 2.5
    rows = [{"prompt": [{"role": "user", "content": word}]} for word in ("red", "hat", "boat", "goat")]
    free = draw((model, tokenizer), rows, "chat", Sampling(max_new_tokens=40), 4)
    row, number, length = next(
        (row, number, reply.gen_len)
        for row, replies in enumerate(free.replies)
        for number, reply in enumerate(replies)
        if not reply.truncated and reply.gen_len > 1
    )
    for limit, truncated in ((length, False), (length - 1, True)):
        found = draw((model, tokenizer), rows, "chat", Sampling(max_new_tokens=limit), 4)
        assert found.replies[row][number].truncated is truncated
        assert found.ended[row][number] is not truncated


def test_keep_truncated_needs_best_of_or_pairs():
    from argparse import ArgumentParser

    from alignment.cli.evaluate import sample

    parser = ArgumentParser()
    sample.add_arguments(parser)
    args = parser.parse_args(["c", "--prompts", "p", "--output", "o", "--keep_truncated"])
    with pytest.raises(UserError, match="--keep_truncated is for chosen replies"):
        sample.check_arguments(args)
