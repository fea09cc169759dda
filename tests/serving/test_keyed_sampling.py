"""Sampling by keyed noise: the right distribution, and the tokens that transformers' warpers keep."""

import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from alignment.serving.batching.keyed_sampling import Sampling, kept, uniforms, with_noise

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0, -8.0])
DRAWS = 4000


def drawn(logprobs, keys) -> torch.Tensor:
    """How often each token wins."""
    winners = [int(with_noise(logprobs, seed, position).argmax()) for seed, position in keys]
    return torch.tensor(winners).bincount(minlength=len(logprobs))


@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_tokens_come_as_often_as_their_probability(along):
    keys = [(i, 5) if along == "seeds" else (5, i) for i in range(DRAWS)]
    logprobs = LOGITS.log_softmax(-1)
    counts = drawn(logprobs, keys)[:6].double()
    expected = logprobs[:6].double().softmax(-1) * counts.sum()
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_draws_of_neighbouring_keys_are_independent():
    logprobs = torch.zeros(2).log_softmax(-1)
    winners = torch.tensor([int(with_noise(logprobs, seed, at).argmax()) for seed in range(40) for at in range(50)])
    pairs = (2 * winners[:-1] + winners[1:]).bincount(minlength=4)
    assert chisquare(pairs.numpy()).pvalue > 1e-3


def test_no_draw_is_certain_to_win():
    """A vocabulary of 200,000 has a number of 0 in every 80th draw if numbers have 24 bits."""
    drawn = uniforms(2_000_000, torch.Generator().manual_seed(0))
    assert drawn.min() > 0 and drawn.max() < 1
    small = drawn[drawn < 1e-3]
    assert len(small.unique()) == len(small) > 1800  # of 24 bits, some 110 would be the same as another


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.6}, {"top_k": 99}, {}])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_same_tokens_are_kept_as_by_generate(options, temperature):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)] if temperature != 1 else [])
    if options.get("top_k", 0) > 0:
        warpers.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(TopPLogitsWarper(options["top_p"]))
    for shift in range(7):
        logits = LOGITS.roll(shift)
        expected = warpers(None, logits[None])[0].softmax(-1)
        found = kept(logits / temperature, Sampling(temperature=temperature, **options)).softmax(-1)
        torch.testing.assert_close(found, expected)


def test_the_most_likely_token_is_always_kept():
    options = Sampling(temperature=1.0, top_p=1e-6, top_k=1)
    assert kept(LOGITS, options).isfinite().nonzero()[:, 0].tolist() == [0]
