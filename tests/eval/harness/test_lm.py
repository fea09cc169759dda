"""The model class gives lm-eval the same results as lm-eval's own, in any batches, with fewer logits."""

import copy

import numpy
import pandas
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from alignment.errors import UserError
from eval.comparison.calibration import expected_calibration_error
from eval.harness.lm import CausalLM
from eval.harness.run_suite import evaluate, load_checkpoint
from eval.harness.store import load_run

KINDS = ["base", "sft", "adapter", "gpt", "foreign"]


def pairs(*texts):
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("t", k, 1))
        for k, pair in enumerate(texts)
    ]


REQUESTS = pairs(
    *[("The hat is", f" {word}") for word in ("red", "green", "blue")],
    *[(f"{'The goat saw the hen. ' * k}Then the fox", f" saw {word}") for k in range(7) for word in ("a hat", "it")],
    ("", "The owl sits."),
    ("Trailing space ", "boat"),
    *[("Pick one:", letter) for letter in "ABCD"],
)


@pytest.fixture(scope="module")
def gpt(tokenizer):
    from alignment.models.gpt import GPTConfig, GPTForCausalLM

    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPTConfig(
        **sizes, **tokens, vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.35
    )
    return GPTForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_scores_equal_lm_evals(kind, gpt, model, tokenizer, monkeypatch):
    """In any order and batch; logits are computed only from the first scored position."""
    chosen = gpt if kind == "gpt" else model
    shapes, forward = [], chosen.forward
    with torch.no_grad():
        expected = HFLM(pretrained=chosen, tokenizer=tokenizer, batch_size=4, max_length=512).loglikelihood(
            REQUESTS, disable_tqdm=True
        )
        lm = CausalLM(chosen, tokenizer, 4)

        def watched(ids, **options):
            output = forward(ids, **options)
            shapes.append((ids.shape[1], output.logits.shape[1]))
            return output

        monkeypatch.setattr(chosen, "forward", watched)
        found = lm.loglikelihood(REQUESTS)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    numpy.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], rtol=1e-5)
    rows = len({(pair.args[0], pair.args[1][:-1] if len(pair.args[1]) == 1 else pair.args[1]) for pair in REQUESTS})
    assert len(shapes) == -(-rows // 4)
    assert sum(kept for _, kept in shapes) < 0.6 * sum(width for width, _ in shapes)


def test_a_model_that_computes_all_logits_scores_the_same(model, tokenizer):
    with torch.no_grad():
        lm = CausalLM(model, tokenizer, 4)
        expected = lm.loglikelihood(REQUESTS)
        lm.accepted = {}
        numpy.testing.assert_allclose(lm.loglikelihood(REQUESTS), expected, rtol=1e-5)


def test_a_tokenizer_that_adds_a_beginning_token(model, tokenizer):
    """Texts encoded together get the same ids as one by one, including texts that contain the beginning token."""
    from alignment.tokenization.train import train_tokenizer

    begins = train_tokenizer(["the fox saw the hen"] * 20, 300, 512)
    lm = CausalLM(model, begins, 4)
    texts = ["the fox", f"{begins.bos_token}the fox", "", "the hen "]
    assert lm._encode(texts) == {text: HFLM.tok_encode(lm, text) for text in texts}
    assert lm._encode(texts)["the fox"] == lm._encode(texts)[f"{begins.bos_token}the fox"]


def end_often(model, tokenizer):
    """The model with more variable logits for its stop tokens, so that they are sometimes the largest."""
    stops = CausalLM(model, tokenizer, 1).stop_ids
    with torch.no_grad():
        model.get_output_embeddings().weight[stops] *= 2.5
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_leaks_beyond_the_stop(kind, checkpoints, adapter, gpt, model, tokenizer, suite, tmp_path):
    """Batch 1 and batch 16 give the same text, of a kind of checkpoint whose replies end at different lengths."""
    stage = "pretrain" if kind == "base" else "sft"
    checkpoint = adapter if kind == "adapter" else checkpoints / stage / "checkpoint"
    chosen = {"gpt": gpt, "foreign": model}.get(kind) or load_checkpoint(checkpoint)[0]
    loaded = end_often(copy.deepcopy(chosen), tokenizer), tokenizer
    runs = []
    for batch_size in (1, 16):
        folder = tmp_path / str(batch_size)
        evaluate(checkpoint, suite, "chat", folder, loaded=loaded, batch_size=batch_size)
        runs.append(load_run(folder).items)
    pandas.testing.assert_frame_equal(*runs)
    assert runs[0]["gen_len"].nunique() > 1 and not runs[0]["truncated"].all()


def test_settings_of_a_checkpoint_change_replies_as_in_lm_eval_and_are_named(model, tokenizer, caplog):
    changed = copy.deepcopy(model)
    changed.generation_config.repetition_penalty = 5.0
    requests = [
        Instance("generate_until", {}, (text, {"until": ["zz"], "max_gen_toks": 12}), 0, ("t", k, 1))
        for k, text in enumerate(["The hat is", "The goat"])
    ]
    found = {}
    for name, one in {"plain": model, "changed": changed}.items():
        with torch.no_grad():
            theirs = HFLM(pretrained=one, tokenizer=tokenizer, batch_size=2, max_length=512)
            expected = theirs.generate_until(requests, disable_tqdm=True)
            found[name] = CausalLM(one, tokenizer, 2).generate_until(requests)
        assert found[name] == expected
        assert ("repetition_penalty=5.0" in caplog.text) is (name == "changed")
    assert found["plain"] != found["changed"]


def test_calibration_by_hand():
    """Bins of a tenth: (0.05, 0.08) hold no right one, 0.95 a right one, 0.62 and 0.68 one of two."""
    confidence, correct = numpy.array([0.05, 0.08, 0.95, 0.62, 0.68]), numpy.array([0, 0, 1, 1, 0])
    expected = (abs(0.05 + 0.08) + abs(0.95 - 1) + abs(0.62 + 0.68 - 1)) / 5
    assert expected_calibration_error(confidence, correct, by="width") == pytest.approx(expected)
    assert expected_calibration_error(numpy.array([1.0]), numpy.array([1]), by="width") == 0.0


def test_calibration_of_multiple_choice(tmp_path, model, tokenizer):
    import json

    rows = [{"question": f"Q{k}?", "choices": ["a hat", "a fox", "it"][: 2 + k % 2], "answer": k % 2} for k in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = evaluate(
        "unsaved", f"{tmp_path / 'q.jsonl'}?calibration=true", "plain", tmp_path, loaded=(model, tokenizer)
    )
    figures = {row["metric"]: row for row in record["tasks"]}
    assert set(figures) == {"acc", "acc_norm", "brier", "ece"}
    items = load_run(tmp_path).items
    acc = items[items["metric"] == "acc"]
    assert ((acc["gold_probability"] == acc["confidence"]) == (acc["score"] == 1)).all()
    lm = CausalLM(model, tokenizer, 4)
    with torch.no_grad():
        scores = lm.loglikelihood(pairs(*[("Question: Q0?\nAnswer:", f" {choice}") for choice in ("a hat", "a fox")]))
    shares = torch.tensor([score for score, _ in scores]).softmax(0)
    assert acc["gold_probability"].iloc[0] == pytest.approx(float(shares[0]), rel=1e-5)
    brier = items[items["metric"] == "brier"]["score"]
    assert brier.iloc[0] == pytest.approx(float((shares[0] - 1) ** 2 + shares[1] ** 2), rel=1e-4)
    assert figures["brier"]["value"] == pytest.approx(brier.mean()) and figures["brier"]["higher_is_better"] is False
    correct = acc["score"].to_numpy()
    expected = expected_calibration_error(acc["confidence"].to_numpy(), correct, by="width")
    assert figures["ece"]["value"] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["chosen", "generated"])
def test_logits_that_are_not_numbers_are_refused(kind, model, tokenizer, suite, tmp_path):
    """The largest of NaN is the first: the first choice, or the first token of the vocabulary."""
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data[7] = float("nan")
    (tmp_path / "q.jsonl").write_text('{"question": "Who?", "choices": ["red", "blue"], "answer": "red"}\n')
    asked = suite if kind == "generated" else str(tmp_path / "q.jsonl")
    with pytest.raises(UserError, match="not numbers"):
        evaluate("m", asked, "plain", tmp_path / "run", loaded=(broken, tokenizer), limit=2)
    broken.lm_head.weight.data[7] = float("inf")  # of hidden states of either sign
    with pytest.raises(UserError, match="not numbers"):
        evaluate("m", asked, "chat", tmp_path / "run", loaded=(broken, tokenizer), limit=2)


def bare(tokenizer, **kept):
    """The tokenizer without special tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, chat_template=tokenizer.chat_template, **kept
    )


@pytest.mark.parametrize("format", ["plain", "chat"])
def test_a_tokenizer_without_end_and_beginning(format, model, tokenizer, suite, tmp_path):
    """As with an EOS token that never comes: the same prompts, scores and replies in batches of any size."""
    (tmp_path / "q.jsonl").write_text(
        '{"question": "Who?", "choices": ["red", "blue"], "answer": "red"}\n'
        '{"question": "Where is the hen?", "choices": ["hill", "barn"], "answer": "barn"}\n'
    )
    own = copy.deepcopy(model)
    own.generation_config.eos_token_id = None
    for asked in (suite, str(tmp_path / "q.jsonl")):
        found = []
        for size, words in ((1, bare(tokenizer)), (4, bare(tokenizer)), (4, bare(tokenizer, pad_token="<|pad|>"))):
            folder = tmp_path / f"{size}-{words.pad_token}"
            evaluate("m", asked, format, folder, loaded=(own, words), limit=4, batch_size=size)
            found.append(load_run(folder).items)
        pandas.testing.assert_frame_equal(found[0], found[1])
        pandas.testing.assert_frame_equal(found[0], found[2])
        assert found[0]["prompt"].str.len().min() > 0


def test_an_empty_prompt_without_a_beginning_is_refused(model, tokenizer):
    lm = CausalLM(model, bare(tokenizer), 2)
    for ask in (lm.loglikelihood, lm.loglikelihood_rolling):
        with pytest.raises(UserError, match="bos_token or eos_token"):
            ask(pairs(("", "red")))
