"""Findings about repeated and leaked rows: they are given where they matter, and only there."""

import json

import pytest
from check_cases import turn
from datasets import Dataset

from alignment.check.findings import Finding
from alignment.check.material import Material, Options, Origin, Rows, read_rows
from alignment.check.rows import check_columns, check_duplicates, check_label_column, check_leaks
from alignment.data.arguments import DataArguments
from alignment.data.preparing.account import DataReport

METHOD_OF = {"text": "pretrain", "sft": "sft", "preference": "dpo", "prompts": "ppo", "kto": "kto"}


def material_of(rows: Rows, kind: str, method: str | None = None, configs: tuple = ()) -> Material:
    method = method or METHOD_OF[kind]
    return Material(method, method, kind, configs, rows, Origin(), Options())


def row(kind: str, number: int, words: int = 10) -> dict:
    """A row of a number of distinct words, about as many characters for each number."""
    text = " ".join(f"w{number:04}x{place:03}" for place in range(words))
    return {
        "text": {"text": text},
        "sft": {"prompt": text, "completion": "a"},
        "preference": {"prompt": text, "chosen": "a", "rejected": "b"},
        "prompts": {"prompt": text},
        "kto": {"prompt": text, "completion": "a", "label": number % 2 == 0},
    }[kind]


def duplicates(folder, kind: str, rows: list[dict], **arguments) -> list[Finding]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = DataArguments(str(path), eval_share=0, **arguments)
    return list(check_duplicates(material_of(read_rows(args, kind, 0, None, Options()), kind)))


@pytest.mark.parametrize("kind", ["text", "sft", "preference", "kto"])
def test_repeated_targets_are_reported_by_their_share_of_the_text(kind, tmp_path):
    """Four in a hundred rows of one length; then as many rows that are long, and eight rows that are short."""
    once = [row(kind, number) for number in range(96)]
    assert not duplicates(tmp_path, kind, once + once[:4])
    (found,) = duplicates(tmp_path, kind, once[:92] + once[:8])
    assert (found.severity, found.got[:40]) == ("warning", "8 of 100 rows read for training, 8.0% of")
    assert found.fix == "set deduplicate: exact to drop them"
    assert not duplicates(tmp_path, kind, once[:92] + once[:8], deduplicate="exact")
    long, short = row(kind, 900, words=100), row(kind, 901, words=1)
    assert [found.severity for found in duplicates(tmp_path, kind, [*once, long, long])] == ["warning"]
    assert not duplicates(tmp_path, kind, [*once, *[short] * 9])


def test_repeated_prompts_are_reported_if_most_rows_are_repeats(tmp_path):
    """PPO draws new completions for a prompt that returns; a file that was joined to itself is a mistake."""
    once = [row("prompts", number) for number in range(60)]
    assert not duplicates(tmp_path, "prompts", once + once[:40])
    (found,) = duplicates(tmp_path, "prompts", once + once)
    assert (found.severity, found.expected) == ("warning", "less than 50% of the text")


def test_repeats_of_a_mixture_count_once(tmp_path):
    """Epochs of a source are meant; a row that two sources share is not."""
    once = [row("text", number) for number in range(20)]
    for name, rows in {"a": once[:10], "b": once[10:], "c": once[8:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def found(*names: str) -> list[Finding]:
        sources = [{"name": str(tmp_path / f"{name}.jsonl"), "epochs": 3} for name in names]
        args = DataArguments(datasets=sources, eval_share=0)
        return list(check_duplicates(material_of(read_rows(args, "text", 0, None, Options()), "text")))

    assert not found("a", "b")
    assert [finding.got[:40] for finding in found("a", "c")] == ["2 of 22 rows read for training, 9.1% of "]


def leaks(kind: str, train: list[dict], held_out: list[dict]) -> list[Finding]:
    splits = {"train": Dataset.from_list(train), "validation": Dataset.from_list(held_out)}
    return list(check_leaks(material_of(Rows(splits, DataReport(kind, [])), kind)))


def conversation(asked: str, reply: str = "yes") -> dict:
    return {"messages": [turn("user", asked), turn("assistant", reply)]}


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        ("12 - 9 =", "12 + 9 ="),
        ("12 - 9", "12 9"),
        ("3 * -4", "3 * 4"),
        ("6/3", "6*3"),
        ("a < b?", "a > b?"),
        ("$5", "5"),
        ("Is it 😀?", "Is it 😢?"),
        ("😀", "😢"),
        ("कि", "की"),  # vowel signs alone differ
        ("你好", "你们好"),
        ("?", "!"),  # no words at all
    ],
)
def test_texts_that_a_sign_tells_apart_are_no_near_duplicates(trained, held_out):
    assert not leaks("text", [{"text": trained}], [{"text": held_out}])


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        ("12 + 9 ?", "12+9"),
        ("Well-known: yes", "well known, YES!"),
        ("(a) 'b' \u2014 c", 'A. "b" - c'),  # a long dash
        ("a\n\nb", "A b"),
        ("\uff11\uff12 a", "12 A"),  # full-width digits
    ],
)
def test_case_space_and_punctuation_make_no_other_text(trained, held_out):
    (found,) = leaks("sft", [conversation("other"), conversation(trained)], [conversation(held_out)])
    assert (found.severity, found.what) == ("warning", "held-out rows are near-duplicates of training rows")
    assert found.got.startswith("1 of 1 rows of the validation split, 100.0% of its text")


@pytest.mark.parametrize(("words", "severity"), [(1, "note"), (4, "note"), (6, "error"), (60, "error")])
def test_documents_that_coincide_are_reported_by_their_share_of_the_held_out_text(words, severity):
    """One short document of a hundred words coincides by chance; of as many documents, a long one does not."""
    train = [row("text", number) for number in range(50)]
    shared, others = row("text", 0, words), row("text", 100, 100 - words)
    (found,) = leaks("text", [shared, *train], [others, shared])
    assert (found.severity, found.what) == (severity, "held-out rows are in the training rows")
    near = {"text": shared["text"].upper()}
    (found,) = leaks("text", [near, *train], [others, shared])
    assert found.severity == {"note": "note", "error": "warning"}[severity]


def test_conversations_never_coincide_by_chance():
    train = [conversation(f"what is {number}?") for number in range(200)]
    (found,) = leaks("sft", train, [train[7], *(conversation(f"new {number}") for number in range(99))])
    assert (found.severity, found.expected) == ("error", "none") and found.got.startswith("1 of 100 rows")


@pytest.mark.parametrize("subset", [None, "family"])
def test_the_column_of_the_reward_cards_groups_is_read(subset):
    from alignment.stages.reward import RewardArguments

    rows = Rows({"train": Dataset.from_list([row("preference", 0) | {"family": "a", "other": 1}])}, DataReport("", []))
    data = RewardArguments("rows.jsonl", card_subset=subset)
    (found,) = check_columns(material_of(rows, "preference", "reward", (data,)))
    assert found.what == f"columns not read: {'other' if subset else 'family, other'}"


def test_a_label_column_without_probabilities_is_an_error():
    from alignment.stages.dpo import DPORecipe

    pairs = [row("preference", number) | {"preference": label} for number, label in enumerate((0.5, 1.0, 2.0))]
    args = DPORecipe("out", label_column="preference", use_cpu=True, bf16=False)

    def found(rows):
        read = Rows({"train": Dataset.from_list(rows)}, DataReport("", []))
        material = material_of(read, "preference", "dpo", (args,))
        return [finding.what for finding in (*check_label_column(material), *check_columns(material))]

    assert found(pairs) == ["the column 'preference' has values that are no probabilities"]
    assert not found(pairs[:2])
    assert "no column 'preference'" in found([row("preference", 0)])[0]
