"""What a model says of a row, and replies to it, hangs on no other row, batch, padding, backend or cache."""

import evaluation_cases as cases
import pytest
import ragged
from covering import covering

TWELVE = [tuple(range(12)), tuple(reversed(range(12))), (5, 0, 11, 7, 2, 9, 1, 10, 3, 8, 4, 6)]
FACTORS = {
    "kind": list(cases.MODELS),
    "name": list(ragged.TOKENIZERS),
    "batch_size": [1, 2, 3, 5, 8, 16],
    "order": TWELVE,
    "attention": ["sdpa", "eager"],
}
CHECKS = [cases.check_log_likelihoods, cases.check_rolling, cases.check_greedy, cases.check_sampled]


@pytest.mark.parametrize("kind", cases.MODELS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_batches_order_and_attention_do_not_matter(check, kind):
    for row in covering(FACTORS)[:: 1 if check in CHECKS[:2] else 3]:
        if row["kind"] == kind:
            check(**row)


@pytest.mark.parametrize("kind", cases.MODELS)
def test_ppos_rollout_is_what_each_prompt_alone_gives(kind, monkeypatch):
    for name, batch_size, order in [("ours", 3, TWELVE[2]), ("pad-is-eos", 1, TWELVE[0])]:
        cases.check_rollout(kind, name, batch_size, order, monkeypatch=monkeypatch)


@pytest.mark.parametrize("kind", cases.MODELS)
def test_cache_padding_and_attention_do_not_change_logits(kind):
    cases.check_cache(kind, "ours")
    cases.check_attention(kind, "pad-is-eos")
