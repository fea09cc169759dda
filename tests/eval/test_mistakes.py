"""Evaluating and generating verbs with mistakes of a user: exit code 2 and a word that helps, never a traceback."""

import json
import shutil

import pytest

import align

JUDGE = "reward_models.rules:length_band?low=2&high=6"
EVAL = ("eval", "tuned", "--suite", "sums.jsonl", "--format", "plain")
SAMPLE = ("sample", "tuned", "--prompts", "prompts.jsonl", "--max_new_tokens", "4")
WINRATE = ("winrate", "tuned", "tuned", "--prompts", "prompts.jsonl", "--max_new_tokens", "4")
CHAT = ("chat", "tuned", "--max_new_tokens", "4")
CARD = ("reward-card", JUDGE, "--pairs", "pairs.jsonl")
COMPARE = ("compare", "tuned", "tuned", "--suite", "sums.jsonl", "--format", "plain")
SUITE = ("eval", "tuned", "--format", "plain", "--suite")

NUMBERS = [
    ((*EVAL, "--batch_size", "0"), "batch_size"),
    ((*EVAL, "--batch_size", "-1"), "batch_size"),
    ((*EVAL, "--batch_size", "abc"), "batch_size"),
    ((*EVAL, "--limit", "0"), "limit"),
    ((*EVAL, "--limit", "-1"), "limit"),
    ((*EVAL, "--limit", "1e9"), "limit"),
    ((*EVAL, "--seed", "-1"), "seed"),
    ((*EVAL, "--seed", str(2**40)), "seed"),
    ((*EVAL, "--num_fewshot", "-1"), "num_fewshot"),
    ((*EVAL, "--num_fewshot", "50"), "num_fewshot"),
    ((*EVAL, "--suite_args", "[1]"), "suite_args"),
    ((*EVAL, "--suite_args", "3"), "suite_args"),
    ((*EVAL, "--suite_args", '{"max_gen_toks": 0}'), "max_gen_toks"),
    ((*SUITE, "sums.jsonl?max_gen_toks=-3"), "max_gen_toks"),
    ((*SUITE, "sums.jsonl?num_fewshot=-1"), "num_fewshot"),
    ((*SUITE, "sums.jsonl?max_gen_toks=100000"), "No item fits"),
    ((*COMPARE, "--limit", "-2"), "limit"),
    ((*COMPARE, "--limit", "0"), "limit"),
    ((*COMPARE, "--batch_size", "0"), "batch_size"),
    ((*COMPARE, "--show", "-1"), "show"),
    ((*SAMPLE, "--output", "o.jsonl", "--temperature", "nan"), "temperature"),
    ((*SAMPLE, "--output", "o.jsonl", "--temperature", "inf"), "temperature"),
    ((*SAMPLE, "--output", "o.jsonl", "--temperature", "-1"), "temperature"),
    ((*SAMPLE, "--output", "o.jsonl", "--top_p", "nan"), "top_p"),
    ((*SAMPLE, "--output", "o.jsonl", "--n", "0"), "repl"),
    ((*SAMPLE, "--output", "o.jsonl", "--max_new_tokens", "512"), "no prompt leaves room"),
    ((*WINRATE, "--judge", JUDGE, "--epsilon", "nan"), "epsilon"),
    ((*WINRATE, "--judge", JUDGE, "--n", "0"), "--n"),
    ((*CHAT, "--prompt", "hi", "--temperature", "nan"), "temperature"),
    ((*CHAT, "--prompt", "hi", "--temperature", "inf"), "temperature"),
    ((*CHAT, "--prompt", "hi", "--seed", "-1"), "seed"),
    ((*CHAT, "--prompt", "hi", "--seed", str(2**40)), "seed"),
    ((*CHAT, "--prompt", "red " * 600), "longer than the model's context"),
    ((*CARD, "--limit", "0"), "limit"),
    ((*CARD, "--batch_size", "0"), "batch_size"),
    ((*CARD, "--min_gap", "nan"), "min_gap"),
    ((*CARD, "--against", "sums.jsonl"), "sums.jsonl"),
    ((*CARD, "--against", "a-file"), "a-file"),
    ((*WINRATE, "--judge", "reward_models.rules:length_band?low=a"), "low"),
    ((*WINRATE, "--judge", "nowhere.py:judge"), "nowhere.py"),
]
UNWRITABLE = [
    ((*EVAL, "--output_dir"), ""),
    ((*SAMPLE, "--output"), "/replies.jsonl"),
    ((*WINRATE, "--judge", JUDGE, "--json"), "/figures.json"),
    ((*COMPARE, "--json"), "/figures.json"),
    ((*COMPARE, "--md"), "/figures.md"),
    ((*COMPARE, "--html"), "/figures.html"),
    ((*CARD, "--output_dir"), ""),
]
PLACES = {
    "below a file": "a-file/x",
    "long": "x" * 300,
    "no such device": "/proc/align-case",
    "kernel": "/sys/align-case",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, model):
    folder = tmp_path_factory.mktemp("user")
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    rows = {
        "sums": [{"question": "One plus one?", "answer": "2"}, {"question": "Two plus one?", "answer": "3"}],
        "prompts": [{"prompt": "red"}, {"prompt": "blue hat"}],
        "pairs": [{"prompt": "red", "chosen": "a hat", "rejected": f"{n}"} for n in range(3)],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (folder / "a-file").write_text("x")
    return folder


def refused(arguments, word, capsys) -> None:
    try:
        code = align.main(list(arguments))
    except SystemExit as stop:  # by argparse
        code = stop.code
    said = capsys.readouterr()
    assert code == 2, said
    assert word in said.err


def title(case) -> str | None:
    return " ".join(case)[:80] if isinstance(case, tuple) else None


@pytest.mark.parametrize(("arguments", "word"), NUMBERS, ids=title)
def test_values_out_of_range_are_named(arguments, word, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "o.jsonl").unlink(missing_ok=True)
    refused(arguments, word, capsys)
    assert not (place / "o.jsonl").exists()


@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("arguments", "name"), UNWRITABLE, ids=title)
def test_an_output_that_cannot_be_written_is_named_before_a_model_is_loaded(
    arguments, name, where, place, monkeypatch, capsys
):
    if where.startswith("/sys") and _writable(where):
        pytest.skip("/sys can be written here")
    monkeypatch.chdir(place)
    monkeypatch.setattr("alignment.models.loading.load_causal_lm", lambda *_, **__: pytest.fail("loaded in vain"))
    refused((*arguments, where + name), where, capsys)


def _writable(path: str) -> bool:
    try:
        shutil.os.mkdir(path)
    except OSError:
        return False
    shutil.os.rmdir(path)
    return True
