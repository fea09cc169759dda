"""The text of a reply in pieces: whole characters, nothing of a stop string, and together what decoding gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_tiny import chat_tokenizer

from alignment.serving.api.reply_text import ReplyText

TOKENIZER = chat_tokenizer()
BACKEND = TOKENIZER.backend_tokenizer
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
TEXTS = st.text(st.sampled_from("ab one\u00e9\u4e2d\U0001f600"), max_size=30)


def pieces_of(tokens, stops=(), ends=(END,), limit=999, sizes=(1,)) -> tuple[list[str], ReplyText]:
    """The pieces of a reply whose tokens come in groups of these sizes, until it ends."""
    text, pieces, rest = ReplyText(BACKEND, stops, ends, limit), [], list(tokens)
    at = 0
    while text.reason is None:
        size = sizes[at % len(sizes)]
        at += 1
        group, rest = rest[:size], rest[size:]
        pieces.append(text.add(group, finished=not rest))
    return pieces, text


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(TEXTS.filter(len), max_size=3))
def test_pieces_are_the_text_before_the_first_stop(text, sizes, stops):
    pieces, reply = pieces_of([*ids(text), END], stops, sizes=sizes)
    beginnings = [BACKEND.decode(ids(text)[:count]) for count in range(len(ids(text)) + 1)]
    complete = next((one for one in beginnings if any(stop in one for stop in stops)), text)  # the first with a stop
    cut = min((at for stop in stops if (at := complete.find(stop)) >= 0), default=len(text))
    assert "".join(pieces) == text[:cut]
    assert "\ufffd" not in "".join(pieces)
    assert reply.reason == "stop"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one\nthree", ["\nth"], "one"),  # across three tokens
        ("aab", ["ab"], "a"),  # the first a may be its beginning
        ("ab", ["abc"], "ab"),  # only a beginning: sent in the end
        ("xabcx", ["bc", "abcd", "c"], "xa"),
        ("\u4e2d\U0001f600b", ["\U0001f600"], "\u4e2d"),
        ("stop", ["stop"], ""),
    ],
)
def test_stop_strings(text, stops, expected):
    pieces, _ = pieces_of(ids(text), stops)
    assert "".join(pieces) == expected


def test_text_is_held_back_only_as_long_as_it_may_be_a_stop():
    pieces, _ = pieces_of(ids("ab xy ab."), ["ab!"])
    assert pieces[:3] == ["", "", "ab "]


def test_reasons():
    assert pieces_of(ids("ab"), limit=2)[1].reason == "length"
    assert pieces_of([*ids("ab"), END], limit=3)[1].reason == "stop"
    assert pieces_of(ids("ab"), ["b"], limit=2)[1].reason == "stop"
    reply = pieces_of([*ids("ab"), END])[1]
    assert (len(reply.tokens), reply.shown) == (3, 2)


def test_half_a_character_at_the_end_is_marked():
    halves = ids("\u4e2d")[:2]
    pieces, reply = pieces_of([*ids("a"), *halves], limit=3)
    assert "".join(pieces) == BACKEND.decode([*ids("a"), *halves]) == "a\ufffd"
    assert reply.reason == "length"


def test_tokens_after_a_stop_are_ignored():
    text = ReplyText(BACKEND, ["b"], [END], 99)
    assert text.add(ids("abab"), finished=False) == "a"
    assert text.add(ids("ab"), finished=True) == "" and len(text.tokens) == 2
