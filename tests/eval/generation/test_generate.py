"""Replies of a checkpoint: what they depend on, and how they are chosen."""

import json
import math

import pytest
import torch

from alignment.errors import UserError
from eval.generation.choose import Pair, best, preference_pair, preference_pairs
from eval.generation.generate import Sampling, encode_prompts, fitting, generate, keyed_sampler, load_prompts, score
from eval.generation.sampled_rows import draw
from eval.harness.run_suite import load_checkpoint
from reward_models.card.best_of_n import best_of_n_kl

from ..conftest import WORDS

TALKS = [[{"role": "user", "content": " ".join(WORDS[: 1 + i % 5]) + "?"}] for i in range(9)]


def texts(replies):
    return [[reply.text for reply in group] for group in replies]


@pytest.mark.parametrize("format", ["plain", "chat"])
def test_a_sampled_reply_depends_on_its_prompt_and_number_alone(model, tokenizer, format):
    prompts = encode_prompts(tokenizer, TALKS, format)
    whole = generate(model, tokenizer, prompts, Sampling(max_new_tokens=10, batch_size=16), n=3)
    single = generate(model, tokenizer, prompts, Sampling(max_new_tokens=10, batch_size=1), n=3)
    assert texts(whole) == texts(single)
    backwards = generate(model, tokenizer, prompts[:5][::-1], Sampling(max_new_tokens=10, batch_size=4), n=1)
    assert [group[0] for group in whole[:5]] == [group[0] for group in backwards[::-1]]
    assert len({text for group in texts(whole) for text in group}) > 9
    other = generate(model, tokenizer, prompts, Sampling(max_new_tokens=10, seed=1, batch_size=16), n=3)
    assert texts(other) != texts(whole)


def test_equal_prompts_have_different_samples_and_equal_greedy_replies(model, tokenizer):
    prompts = encode_prompts(tokenizer, [TALKS[0], TALKS[0]], "chat")
    first, second = generate(model, tokenizer, prompts, Sampling(max_new_tokens=10))
    assert first != second
    first, second = generate(model, tokenizer, prompts, Sampling(temperature=0, max_new_tokens=10))
    assert first == second
    output = model.generate(torch.tensor([prompts[0]]), max_new_tokens=10, do_sample=False)
    assert output[0, len(prompts[0]) :].tolist() == list(first[0].token_ids)
    assert first[0].gen_len == len(first[0].token_ids)


LEAKY = {"repetition_penalty": 5.0, "min_new_tokens": 5, "top_k": 1, "temperature": 0.1, "suppress_tokens": [5, 6]}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_generation_config_changes_no_reply(model, tokenizer, tmp_path, temperature):
    """As `align sample`, `align winrate` and `align frontier` load a checkpoint."""
    for name, settings in {"plain": {}, "leaky": LEAKY}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        file = tmp_path / name / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    rows = [{"prompt": talk} for talk in TALKS[:4]]
    sampling = Sampling(temperature=temperature, max_new_tokens=10)
    plain, leaky = (draw(load_checkpoint(tmp_path / name), rows, "chat", sampling, 2) for name in ("plain", "leaky"))
    assert plain.replies == leaky.replies


def test_tokens_come_from_the_models_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.0, 0.15, 0.05])
    logits = probabilities.log().expand(4000, -1)
    keys = [("row", row) for row in range(4000)]

    def shares(**options):
        picked = keyed_sampler(keys, Sampling(max_new_tokens=1, **options))(None, logits).argmax(-1)
        return torch.bincount(picked, minlength=5) / 4000

    assert torch.allclose(shares(), probabilities, atol=0.03) and shares()[2] == 0
    sharper = (probabilities**2) / (probabilities**2).sum()
    assert torch.allclose(shares(temperature=0.5), sharper, atol=0.03)
    assert torch.allclose(shares(top_p=0.75), torch.tensor([5 / 8, 3 / 8, 0, 0, 0]), atol=0.03)


def test_stops_end_replies(model, tokenizer):
    prompts = encode_prompts(tokenizer, TALKS, "plain")
    free = generate(model, tokenizer, prompts, Sampling(temperature=0, max_new_tokens=16))
    letter = free[0][0].text[2]
    cut = generate(model, tokenizer, prompts, Sampling(temperature=0, max_new_tokens=16, stop=(letter,)))
    for (whole,), (part,) in zip(free, cut, strict=True):
        assert part.text == whole.text.partition(letter)[0]
        assert len(part.token_ids) == part.gen_len <= whole.gen_len


def test_prompts_without_room_are_left_out_or_refused(model, tokenizer):
    prompts = [[5] * 10, [5] * 500, [5] * 502]
    assert fitting(model, tokenizer, prompts, 12) == [0, 1]
    with pytest.raises(UserError, match="max_new_tokens=512"):
        fitting(model, tokenizer, prompts, 512)
    with pytest.raises(UserError, match="does not fit"):
        generate(model, tokenizer, prompts, Sampling(max_new_tokens=12))


def test_settings_out_of_range_are_reported_together():
    with pytest.raises(UserError, match=r"(?s)temperature.*top_p.*max_new_tokens.*batch_size"):
        Sampling(temperature=-1, top_p=0, max_new_tokens=0, batch_size=0)


def test_chat_needs_a_template(tokenizer):
    from ..conftest import make_tokenizer

    bare = make_tokenizer()
    bare.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        encode_prompts(bare, TALKS, "chat")
    system = [{"role": "system", "content": "red"}, {"role": "user", "content": "hat"}]
    assert encode_prompts(bare, [system], "plain") == [bare("red\n\nhat")["input_ids"]]


def test_prompts_from_any_source(tmp_path):
    rows = [{"prompt": "What?", "task": "a"}, {"prompt": None, "task": "b"}, {"prompt": "Who?", "task": "c"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, account = load_prompts(str(tmp_path / "p.jsonl"), limit=1)
    assert found.to_list() == [{"prompt": [{"role": "user", "content": "What?"}], "task": "a"}]
    assert "1 rows of 3" in account and "prompt is missing" in account and "1 beyond the first 1" in account
    found, _ = load_prompts("tinyworld:prompts", "test", 3)
    assert len(found) == 3 and "task" in found.column_names


def test_scores_are_checked():
    rows = [{"prompt": TALKS[0], "bonus": 2}, {"prompt": TALKS[1], "bonus": 3}]

    def reward(prompts, completions, bonus, **columns):
        assert prompts == [TALKS[0], TALKS[1]] and not columns
        return [None, len(completions[1][0]["content"]) + bonus[1]]

    assert score(reward, rows, ["a", "bcd"]) == [None, 6.0]
    with pytest.raises(UserError, match="wrong number"):
        score(lambda **_: [1.0], rows, ["a", "b"])
    with pytest.raises(UserError, match="not finite"):
        score(lambda **_: [1.0, math.nan], rows, ["a", "b"])


def test_best_of_n():
    assert best(["a", "b", " ", "d"], [1.0, 2.0, 9.0, 2.0]) == 1
    assert best(["a", "b"], [None, -1.0]) == 1
    assert best(["", "b"], [1.0, None]) is None
    assert best_of_n_kl(1) == 0 and best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


def test_pairs_and_the_reasons_for_none():
    def pair(replies, scores, against="worst", margin=0.0):
        return preference_pair(replies, scores, against, margin, "seed")

    assert pair(["a", "b", "c"], [2.0, 3.0, 1.0]) == Pair(1, 2)
    assert pair(["a", "", "c", "d"], [2.0, -9.0, 3.0, None]) == Pair(2, 0)
    assert pair(["a", "b"], [1.0, 1.0]) == "ties"
    assert pair(["a", "b"], [1.0, 1.5], margin=0.6) == "ties"
    assert pair(["a", "b"], [1.0, 1.5], margin=0.5) == Pair(1, 0)
    assert pair(["a", " a"], [1.0, 2.0]) == "all replies the same"
    assert pair(["a", ""], [1.0, 2.0]) == "fewer than two replies with text and score"
    drawn = {preference_pair(["a", "b", "c"], [1.0, 3.0, 2.0], "random", 0, str(i)).rejected for i in range(20)}
    assert drawn == {0, 2}
    pairs, without = preference_pairs([["a", "b"], ["a", "b"]], [[1.0, 1.0], [0.0, 2.0]])
    assert pairs == {1: Pair(1, 0)} and without == {"ties": 1}
