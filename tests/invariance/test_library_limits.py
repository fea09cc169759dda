"""What a library varies with settings that should not matter: each an expected failure that names its line.

A test that passes here means that the library has mended it: take its mark away, and what docs say of it.
"""

import pytest
import ragged
import stage_cases as cases
import torch
from compared import assert_close, assert_same_gradients
from packed_equality import gradients
from transformers import GPT2Config, GPT2LMHeadModel

from alignment.stages import reward

CASE = cases.Case()


def limit(why: str):
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=why)


def same_step(make, micro_batch: int, **keys) -> None:
    """The gradients in micro-batches of this size and in one of all rows."""
    steps = [cases.first_step(make(cases.Setting(micro_batch=size), **keys)) for size in (8, micro_batch)]
    assert_same_gradients(steps[1].gradients, steps[0].gradients, "gradients")


@limit("trl/trainer/dpo_trainer.py:1498: the loss `sft` is the mean over a micro-batch's tokens")
def test_dpos_sft_term_in_micro_batches(bases, tmp_path):
    def make(setting, **keys):
        return cases.dpo_trainer(CASE, setting, bases, tmp_path / str(setting.micro_batch), **keys)

    same_step(make, 2, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0])


@limit("trl/trainer/grpo_trainer.py:3159: the loss `bnpo` is the mean over a micro-batch's tokens")
def test_grpos_bnpo_in_micro_batches(bases, tmp_path, monkeypatch):
    def make(setting, **keys):
        return cases.grpo_trainer(CASE, setting, bases, tmp_path / str(setting.micro_batch), monkeypatch, **keys)

    same_step(make, 2, loss_type="bnpo")


@limit("trl/trainer/grpo_trainer.py:3200: the entropy bonus is the mean over a micro-batch's tokens")
def test_grpos_entropy_bonus_in_micro_batches(bases, tmp_path, monkeypatch):
    def make(setting, **keys):
        return cases.grpo_trainer(CASE, setting, bases, tmp_path / str(setting.micro_batch), monkeypatch, **keys)

    same_step(make, 2, entropy_coef=1.0)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo", "luspo"])
def test_grpos_other_losses_in_micro_batches(loss_type, bases, tmp_path, monkeypatch):
    """Which none of these limits."""

    def make(setting, **keys):
        return cases.grpo_trainer(CASE, setting, bases, tmp_path / str(setting.micro_batch), monkeypatch, **keys)

    same_step(make, 2, loss_type=loss_type)


@limit("transformers/trainer.py:2111: the last, smaller micro-batch of an epoch weighs as much as the others")
@pytest.mark.parametrize("micro_batch", [2, 3])
def test_dpos_last_step_of_an_epoch(micro_batch, bases, tmp_path):
    def make(setting, **keys):
        out = tmp_path / str(setting.micro_batch)
        return cases.dpo_trainer(CASE, setting, bases, out, rows=cases.preferences()[:7], **keys)

    same_step(make, micro_batch)


def test_sfts_last_step_of_an_epoch(bases, tmp_path):
    """It is a mean over all tokens of the step."""

    def make(setting, **keys):
        out = tmp_path / str(setting.micro_batch)
        return cases.sft_trainer(CASE, setting, bases, out, rows=cases.conversations()[:7], **keys)

    same_step(make, 2)
    same_step(make, 3)


@limit("transformers/trainer.py:2999: an evaluation is the mean of its batches' token means, by their rows")
def test_sfts_validation_loss(bases, tmp_path):
    losses = []
    for size in (8, 3):
        trainer = cases.sft_trainer(CASE, cases.Setting(micro_batch=size), bases, tmp_path / str(size))
        losses.append(trainer.evaluate(trainer.train_dataset)["eval_loss"])
    assert_close(losses[1:], losses[:1], "the validation loss")


def dpo_evaluations(bases, tmp_path) -> list[dict]:
    found = []
    for size in (8, 3):
        trainer = cases.dpo_trainer(CASE, cases.Setting(micro_batch=size), bases, tmp_path / str(size))
        found.append(trainer.evaluate(trainer.train_dataset))
    return found


def test_dpos_validation_loss(bases, tmp_path):
    """It is a mean over pairs."""
    whole, parts = dpo_evaluations(bases, tmp_path)
    assert_close([parts["eval_loss"]], [whole["eval_loss"]], "the validation loss")


@limit("trl/trainer/dpo_trainer.py:1701: metrics are the mean of the batches', the last as good as a whole one")
def test_dpos_margins_in_evaluation(bases, tmp_path):
    whole, parts = dpo_evaluations(bases, tmp_path)
    assert_close([parts["eval_rewards/margins"]], [whole["eval_rewards/margins"]], "margins")


@limit("trl/trainer/reward_trainer.py:826: metrics are the mean of the batches', the last as good as a whole one")
def test_the_reward_models_margin_in_evaluation(bases, tmp_path):
    margins = []
    for size in (8, 3):
        out = tmp_path / str(size)
        cases.write(out / "pairs/validation.jsonl", cases.preferences())
        other = [{"prompt": ragged.ask("Horse."), "chosen": ragged.say("kite"), "rejected": ragged.say("x")}]
        cases.write(out / "pairs/train.jsonl", other * 2)
        keys = {"max_length": 120, "learning_rate": 0.0, "per_device_eval_batch_size": size, "eval_strategy": "epoch"}
        args = reward.RewardRecipe(str(out / "stage"), **cases.KEYS | keys)
        data = reward.RewardArguments(str(out / "pairs"))
        model_args = cases.model_arguments(CASE, cases.Setting(), bases, "score")
        watch = cases.run_stage(reward, args, data, model_args)
        margins.append(watch.logged("eval_margin")[0])
    assert_close(margins[1:], margins[:1], "the margin")


@limit("trl/trainer/grpo_trainer.py:1450: no position_ids, so that absolute positions count the padding of a prompt")
def test_grpo_on_a_foreign_model_with_absolute_positions(bases, tmp_path, monkeypatch):
    words = ragged.tokenizer("ours")
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": ragged.CONTEXT, "vocab_size": len(words)}
    tokens = {
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": words.bos_token_id,
    }
    place = bases / "gpt2-ours"
    if not place.exists():
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(**sizes, **tokens, initializer_range=0.3)).save_pretrained(place)
        words.save_pretrained(place)
    case = cases.Case(model="gpt2")
    trainer = cases.grpo_trainer(case, cases.Setting(), bases, tmp_path, monkeypatch, beta=0.0)
    trainer.ref_model = trainer.model
    wanted = gradients(trainer.model, cases.grpo_loss(case, trainer))
    trainer.model.zero_grad()
    assert_same_gradients(cases.first_step(trainer).gradients, wanted, "gradients")
