"""Which rows the filters leave out, against sets worked out by hand or in plain Python."""

import random
import re

import pytest
from datasets import Dataset

from alignment.data.preparing import filters


def user(content):
    return {"role": "user", "content": content}


def reply(content):
    return {"role": "assistant", "content": content}


ROWS = {
    "text": {"text": "ab c"},
    "sft": {"messages": [user("ab"), reply("c")]},
    "preference": {"prompt": [user("ab")], "chosen": [reply("c")], "rejected": [reply("cde")]},
    "prompts": {"prompt": [user("ab")]},
}


def texts_of(rows, kind, write):
    return filters.Texts(Dataset.from_list(rows), kind, write)


@pytest.mark.parametrize(
    ("kind", "whole", "asked"),
    [
        ("text", "ab c", "ab c"),
        ("sft", "ab\nc", "ab"),
        ("preference", "ab\nc\ncde", "ab"),
        ("prompts", "ab", "ab"),
    ],
)
def test_rows_as_texts(kind, whole, asked):
    rows = [ROWS[kind] | {"other": 1}]
    for texts, text in (
        (texts_of(rows, kind, filters.whole_text), whole),
        (texts_of(rows, kind, filters.asked_text), asked),
    ):
        assert (list(texts), texts[0], len(texts)) == ([text], text, 1)


@pytest.mark.parametrize(("kind", "lengths"), [("text", (4, 4)), ("sft", (3, 3)), ("preference", (3, 5))])
def test_lengths_are_of_what_is_learned_from(kind, lengths):
    assert list(filters.row_lengths(Dataset.from_list([ROWS[kind]]), kind)) == [lengths]


def test_both_limits_on_length_are_inclusive():
    filtered = filters.by_length([(2, 2), (3, 3), (3, 5), (5, 5), (3, 6)], 3, 5)
    assert filtered.kept == [1, 2, 3]
    assert filtered.removed == {0: "shorter than 3 characters", 4: "longer than 5 characters"}


def keys_of(rows, kind, key=filters.row_key):
    return [key(row, kind) for row in rows]


def test_the_first_of_exact_duplicates_is_kept():
    rows = [{"text": text} for text in ("a b", "c", " a \n b\n", "A b", "ab", "a b")]
    filtered = filters.exact_duplicates(keys_of(rows, "text"))
    assert (filtered.kept, list(filtered.removed), dict(filtered.counts)) == ([0, 1, 3, 4], [2, 5], {"duplicate": 2})


def test_roles_and_replies_count_for_exact_duplicates():
    system = {"role": "system", "content": "ab"}
    rows = [
        [user("ab"), reply("c")],
        [system, reply("c")],
        [user("ab"), reply("d")],
        [user("ab c")],
        [user("ab\n"), reply("c")],
    ]
    keys = keys_of([{"messages": row} for row in rows], "sft")
    assert len(set(keys)) == 4 and keys[0] == keys[4]
    asked = keys_of([{"messages": row} for row in rows], "sft", filters.asked_key)
    assert asked[0] == asked[2] != asked[1]


def test_the_order_of_a_messages_fields_does_not_count():
    rows = [{"prompt": [user("a")]}, {"prompt": [dict(reversed(user("a").items()))]}]
    assert len(set(keys_of(rows, "prompts"))) == 1


def shingles(text):
    tokens = re.findall(r"\w+", text.lower())
    return {tuple(tokens[start : start + 5]) for start in range(len(tokens) - 4)}


def jaccard(left, right):
    return len(left & right) / len(left | right)


TWENTY = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"


def test_similarity_is_jaccard_of_five_word_sequences():
    cut = " ".join(TWENTY.split()[:15])  # 11 of 13 sequences
    ours, theirs = filters.word_shingles(TWENTY), filters.word_shingles(cut)
    assert (len(ours), len(theirs)) == (13, 11)
    assert filters.similarity(ours, theirs) == jaccard(shingles(TWENTY), shingles(cut)) == 11 / 13


def test_near_duplicates_by_threshold():
    texts = [TWENTY, TWENTY.upper() + "!", " ".join(TWENTY.split()[:15]), "something else entirely"]
    assert filters.near_duplicates(texts, 0.84).kept == [0, 3]  # 11 / 13 is 0.846
    assert filters.near_duplicates(texts, 0.85).kept == [0, 2, 3]
    filtered = filters.near_duplicates(texts, 0.84)
    assert dict(filtered.counts) == {"near duplicate": 2}
    assert filtered.details[2].startswith("like 'one two three")


def test_short_texts_are_near_only_as_a_whole():
    """Of fewer words than a sequence has; and a text without a word is like no other."""
    assert filters.near_duplicates(["3 and 4?", "3 and 5?", "3 AND 4", "...", "!!!", ""], 0.5).kept == [0, 1, 3, 4, 5]


def test_near_duplicates_against_all_pairs():
    """On 300 texts, of which a third are edited copies: what is dropped is similar, what is kept is not."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(400)]
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(200)]
    for text in texts[:100]:
        tokens = text.split()
        tokens[rng.randrange(60)] = "changed"  # at most 5 of 56 sequences differ: 51/61 and more
        texts.append(" ".join(tokens))
    rng.shuffle(texts)
    kept = filters.near_duplicates(texts, 0.8).kept
    sets = [shingles(text) for text in texts]
    similar = [(a, b) for a in range(300) for b in range(a) if jaccard(sets[a], sets[b]) >= 0.8]
    assert len(similar) == 100
    assert set(range(300)) - set(kept) <= {a for a, _ in similar}  # nothing is dropped that is not similar
    assert len(kept) <= 210  # LSH may miss a pair near the threshold


def test_without_near_leaves_out_what_is_like_a_held_out_text():
    filtered = filters.without_near([TWENTY + "!", "new words", "one two"], ["a b c", TWENTY.title()], 0.8, "leak")
    assert (filtered.kept, filtered.removed) == ([1, 2], {0: "leak"})


# Decontamination ----------------------------------------------------------------------------------------------------


def words(first, last):
    return " ".join(f"w{number}" for number in range(first, last))


def left_out(texts, items, ngram=13):
    return filters.without_items(texts, filters.index_items({"suite": items}, ngram)).removed


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        (words(0, 13), True),
        (f"before {words(4, 17)} after", True),
        (words(0, 12), False),  # twelve in a row
        (f"{words(0, 12)} x {words(12, 20)}", False),  # twenty, never thirteen in a row
        (words(0, 13).upper().replace(" ", ", "), True),  # case and punctuation do not count
        (words(0, 13).replace("w12", "w122"), False),  # whole words
    ],
)
def test_thirteen_words_in_a_row_are_a_hit(text, hit):
    assert bool(left_out([text], [words(0, 20)])) is hit


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("Tell me: where does Mira live? In Elm.", True),
        ("where does Mira", False),
        ("somewhere does Mira live", False),
        ("where does, Mira live", True),
    ],
)
def test_a_short_item_is_looked_for_as_a_whole(text, hit):
    assert bool(left_out([text], ["Where does Mira live?"])) is hit


def test_items_do_not_match_across_rows():
    assert not left_out(["it ends: where does", "Mira live in Elm"], ["Where does Mira live?"])
    assert list(left_out(["a b", "x", "", "c d e f"], ["c d e"])) == [3]


def test_hits_name_suite_and_item():
    items = filters.index_items({"one": ["a b c", "d e f"], "two": ["d e f g", "x y"]}, 13)
    filtered = filters.without_items(["d e f", "0 d e f g 0", "x y"], items)
    assert filtered.removed == {0: "holds an item of one", 1: "holds an item of two"}  # the longest match
    assert filtered.details == {0: "item 'd e f'", 1: "item 'd e f g'"}
    assert items.unsearched == {"two": 1}


def test_decontamination_against_plain_search():
    """Three thousand texts, several batches, against a search word by word."""
    rng = random.Random(1)
    vocabulary = "abcdef"
    texts = [" ".join(rng.choices(vocabulary, k=rng.randrange(0, 12))) for _ in range(3000)]
    items = [" ".join(rng.choices(vocabulary, k=length)) for length in (4, 5, 5, 6, 9)]

    def holds(text, item):
        runs = [item.split()[start : start + 5] for start in range(max(1, len(item.split()) - 4))]
        return any(f" {' '.join(run)} " in f" {text} " for run in runs)

    expected = [number for number, text in enumerate(texts) if any(holds(text, item) for item in items)]
    assert list(left_out(texts, items, ngram=5)) == expected and len(expected) > 10


CHINESE = "".join(chr(0x4E00 + 7 * number) for number in range(60))  # sixty different characters
THAI = "".join(chr(0x0E01 + number % 40) for number in range(80))


@pytest.mark.parametrize("script", [CHINESE, THAI], ids=["chinese", "thai"])
@pytest.mark.parametrize(
    ("ngram", "shared", "hit"),
    [(13, 26, True), (13, 25, False), (5, 10, True), (5, 9, False), (1, 2, True)],
)
def test_two_characters_of_a_script_without_spaces_are_a_word(script, ngram, shared, hit):
    item, text = script[:40], f"{CHINESE[-5:]}, {script[3 : 3 + shared]} {CHINESE[-3:]}"
    assert bool(left_out([text], [item], ngram)) is hit


def test_words_and_characters_make_up_a_sequence_together():
    item = f"{words(0, 6)} {CHINESE[:20]}"  # 6 words and 10 words' worth of characters
    assert left_out([f"x {words(0, 6)}\uff0c{CHINESE[:14]} y"], [item])
    assert not left_out([f"x {words(0, 6)} {CHINESE[:13]} y"], [item])
    assert not left_out([f"x {words(1, 6)} {CHINESE[:15]} y"], [item])
    assert left_out([f"x {words(1, 6)} {CHINESE[:16]} y"], [item])


def test_spaces_line_breaks_width_and_punctuation_hide_no_item():
    item = f"ABC 12 {CHINESE[:30]}"
    hidden = "\uff21\uff22\uff23\u3000\uff11\uff12" + "\n\u3001".join(CHINESE[:30])
    assert left_out([hidden], [item])


def test_a_short_item_without_spaces_is_looked_for_as_a_whole_from_six_characters_on():
    items = filters.index_items({"short": [CHINESE[:5]], "long": [CHINESE[10:16]]}, 13)
    found = filters.without_items([CHINESE[:5], f"{CHINESE[40:]}{CHINESE[10:16]}", CHINESE[10:15]], items)
    assert list(found.removed) == [1] and items.unsearched == {"short": 1}


def test_decontamination_without_spaces_against_plain_search():
    """Any run of ten characters of an item."""
    rng = random.Random(2)
    alphabet = CHINESE[:3]
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(0, 60))) for _ in range(1500)]
    items = ["".join(rng.choices(alphabet, k=length)) for length in (8, 10, 12, 15)]
    expected = [
        number
        for number, text in enumerate(texts)
        if any(item[start : start + 10] in text for item in items for start in range(max(1, len(item) - 9)))
    ]
    assert list(left_out(texts, items, ngram=5)) == expected and 10 < len(expected) < 1400


def test_near_duplicates_without_spaces():
    """One sentence changed by a character is near; before, a sentence was one word and equal or not at all alike."""
    changed = CHINESE[:30] + "\u9fa0" + CHINESE[31:]
    similarity = filters.similarity(filters.word_shingles(CHINESE), filters.word_shingles(changed))
    assert similarity == 51 / 61  # five of 56 sequences of five characters differ
    assert filters.near_duplicates([CHINESE, changed, CHINESE[::-1]], 0.8).kept == [0, 2]


def test_exact_duplicates_by_any_form_of_the_characters():
    rows = [
        "caf\u00e9 12",
        "cafe\u0301 12",
        "caf\u00e9 \uff11\uff12",
        "cafe 12",
        "\u30ac",
        "\uff76\uff9e",
        "Caf\u00e9 12",
    ]
    assert filters.exact_duplicates(keys_of([{"text": row} for row in rows], "text")).kept == [0, 3, 4, 6]
    texts = ["x", "caf\u00e9 b c", "y"]
    assert left_out(texts, ["cafe\u0301 b c"])


HASHES = [495948614, 118328369, 2293385943, 1393503407, 3537962120]
KEY = "cefb77d2d905e2a8eaf1299cbad59746"
ITEMS = {4: [9413144217849089533], 13: [10360876705669003485, 13880352372258247070, 14155155918705533099]}


def test_hashes_of_texts_with_spaces_are_those_of_earlier_versions():
    """Written down from the version before characters of unspaced scripts counted as words."""
    assert filters.word_hashes("Where does Mira live, \u00dcber?").tolist() == HASHES
    row = {"text": "Where  does Mira live, \u00dcber?"}
    assert filters.row_key(row, "text").hex() == KEY
    items = filters.index_items({"s": [words(0, 15), "a b c d"]}, 13)
    assert {length: values.tolist() for length, values in items.hashes.items()} == ITEMS


def test_few_examples_are_described():
    assert len(filters.without_items(["a b c"] * 9, filters.index_items({"s": ["a b c"]}, 13)).details) == 3
