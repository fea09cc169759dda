"""Routers' losses of a mixture of experts: at their weight in any micro-batches, of no padding, in no evaluation."""

import pytest
import router_cases as cases


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("micro_batch", [8, 2, 1])
def test_pretraining_weighs_them_the_same_in_any_micro_batches(micro_batch, chunk, bases, tmp_path):
    cases.check_pretrain_weight(micro_batch, bases, tmp_path, loss_chunk_size=chunk)


@pytest.mark.parametrize("micro_batch", [2, 1])
def test_sft_weighs_them_the_same_in_any_micro_batches(micro_batch, bases, tmp_path):
    cases.check_sft_weight(micro_batch, bases, tmp_path)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_leaves_them_out(batch_size, bases, tmp_path):
    cases.check_eval_loss(batch_size, bases, tmp_path)


def test_they_are_of_no_padding(bases):
    cases.check_padding(bases)
