"""Prompts that leave no room for a reply are counted by every verb that generates, on the terminal and in its file."""

import json

import pytest

import align
from eval.generation.generate import Sampling, encode_prompts

JUDGE = "reward_models.rules:length_band?low=2&high=6"
COUNT = "3 of 8 prompts"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, model):
    folder = tmp_path_factory.mktemp("left-out")
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    rows = [{"prompt": f"say {'red ' * (600 if n % 3 == 1 else 1)}{n}"} for n in range(8)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def said(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)

    def run(*arguments):
        code = align.main([*arguments, "--prompts", "prompts.jsonl", "--max_new_tokens", "4"])
        assert code in (0, 2)  # replies that tie, or were all truncated, give no rows
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def test_winrate(said, tmp_path):
    file = tmp_path / "w.json"
    text = said("winrate", "tuned", "tuned", "--n", "8", "--judge", JUDGE, "--json", str(file))
    assert text.count(COUNT) == 2
    found = json.loads(file.read_text())
    assert found["left_out"] == {"a": 3, "b": 3, "prompts": 8}
    assert found["n"] == 5


@pytest.mark.parametrize("format", ["chat", pytest.param("plain", marks=pytest.mark.slow)])
@pytest.mark.parametrize("chosen", [(), ("--best-of", "2", "--reward", JUDGE), ("--pairs", "--reward", JUDGE)])
def test_sample(chosen, format, said, tmp_path):
    assert COUNT in said("sample", "tuned", "--output", str(tmp_path / "o.jsonl"), "--format", format, *chosen)


def test_without_such_prompts_nothing_is_said(said, tmp_path):
    assert "no room" not in said("sample", "tuned", "--output", str(tmp_path / "o.jsonl"), "--limit", "1")


@pytest.mark.parametrize("prompt", ["", " ", "\n"])
def test_an_empty_prompt_begins_a_text(prompt, model, tokenizer):
    """In any batch: an empty row of padding has nothing to attend to."""
    from eval.generation.generate import generate

    prompts = encode_prompts(tokenizer, [[{"role": "user", "content": text}] for text in (prompt, "red hat")], "plain")
    assert all(prompts)
    together = generate(model, tokenizer, prompts, Sampling(0.0, max_new_tokens=4))
    alone = [generate(model, tokenizer, [one], Sampling(0.0, max_new_tokens=4))[0] for one in prompts]
    assert together == alone
