"""A row's score is its own: of no batch size, order, neighbour or padding."""

import pytest
import ragged
import score_cases as cases
import torch
from covering import covering
from hypothesis import given, settings
from hypothesis import strategies as st

DERANDOMISED = settings(derandomize=True, database=None, deadline=None, max_examples=15)
ORDERS = [tuple(range(8)), (7, 6, 5, 4, 3, 2, 1, 0), (3, 0, 6, 1, 7, 2, 5, 4)]
DESIGN = covering(
    {"kind": list(ragged.MODELS), "name": list(ragged.TOKENIZERS), "batch_size": [1, 2, 3, 5, 8, 16], "order": ORDERS}
)
CHECKS = [cases.check_learned, cases.check_card, cases.check_judge]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_batches_and_order_do_not_matter(check):
    for row in DESIGN:
        check(**row)


@st.composite
def rows_of_tokens(draw):
    """Rows of token ids of any lengths, none of them padding's."""
    ids = st.integers(2, 90)
    return draw(st.lists(st.lists(ids, min_size=2, max_size=20), min_size=1, max_size=9)), draw(st.integers(1, 10))


@pytest.fixture(scope="module", params=ragged.MODELS)
def classifier(request):
    return ragged.model(request.param, ragged.tokenizer("ours"), "score")


@DERANDOMISED
@given(drawn=rows_of_tokens())
def test_any_rows_are_scored_as_if_alone(classifier, drawn):
    rows, batch_size = drawn
    cases.check_score_rows(classifier, ragged.tokenizer("ours"), rows, batch_size)
    cases.check_model_reward(classifier, rows, batch_size)


@pytest.mark.parametrize("order", ORDERS[1:], ids=["backwards", "mixed"])
@pytest.mark.parametrize("batch_size", [3, 8])
def test_win_rates_of_models_do_not_hang_on_their_batches(order, batch_size):
    cases.check_win_rate(cases.learned("gpt", "ours", batch_size), cases.learned("gpt", "ours", 1), order)
    cases.check_win_rate(cases.judge("learned", "chatml", batch_size), cases.judge("learned", "chatml", 1), order)


@DERANDOMISED
@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=5))
def test_best_of_n_takes_each_prompts_own_best(scores):
    gold = torch.randn(len(scores), 4, generator=torch.Generator().manual_seed(0)).tolist()
    cases.check_best_of_n(scores, gold)
