"""The self-check on a GPU, in 32 and 16 bit: sound trainers hold, planted faults show, rewards ignore the batch."""

import ppo_tiny as tiny
import pytest
import tiny_stages
import torch
from datasets import Dataset

from alignment.errors import UserError
from alignment.stages.self_check.policy_checks import ppo_checks
from alignment.stages.self_check.prove import self_check
from alignment.trainers.ppo.rewards import ModelReward, read_completions
from alignment.trainers.ppo.scorers import ModelScorer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and ALIGNMENT_TEST_GPU=1")

TALKS = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in tiny.prompts()["prompt"]]})
SCORES = ModelScorer.scores


def nothing_alone(self, batch, pad_token_id):
    return SCORES(self, batch, pad_token_id) * (len(batch["input_ids"]) > 1)


def trainer(path, bf16: bool, **options):
    arguments = {"use_cpu": False, "bf16": bf16, **options.pop("arguments", {})}
    run = tiny.trainer(path, dataset=TALKS, arguments=arguments, **options)
    run.args.self_check = True
    return run


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("sampler", ["generate", "continuous_batching"])
@pytest.mark.parametrize("mode", tiny.CRITICS)
def test_a_sound_ppo_holds(mode, sampler, bf16, tmp_path):
    options = {name: make() for name, make in tiny.CRITICS[mode].items()}
    run = trainer(tmp_path, bf16, arguments={"critic_mode": mode, "sampler": sampler}, **options)
    assert self_check(run, [ppo_checks(None)])["checks"]


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_score_that_hangs_on_the_batch_is_seen(bf16, tmp_path, monkeypatch):
    judge = tiny.model(head="score", seed=3)
    judge.score.weight.data *= 20  # scores as far apart as a trained model's
    run = trainer(tmp_path, bf16, reward_funcs=judge)
    assert self_check(run, [ppo_checks(None)])["checks"]
    monkeypatch.setattr(
        ModelScorer, "scores", lambda self, batch, pad: SCORES(self, batch, pad) * (len(batch["input_ids"]) > 1)
    )
    with pytest.raises(UserError, match="depends on what else is in the batch"):
        self_check(run, [ppo_checks(None)])


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_rewards_are_the_same_in_every_evaluation_batch(bf16, tmp_path):
    judge = tiny.model(head="score", seed=3)
    run = trainer(tmp_path, bf16, reward_funcs=judge, arguments={"max_completion_length": 24})
    rows = [{"prompt": prompt} for prompt in TALKS["prompt"]]
    [reward] = run.rewards
    with run.accelerator.autocast(), torch.no_grad():
        rollout = run._sample(rows, ("test",))
        samples = read_completions(rollout, rows, run.processing_class, {})
        found = [ModelReward(reward.scorer, "judge", size, reward.reading)(samples) for size in (1, 2, 3, 5, 8)]
    assert found[0].std() > 1e-3
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=0.02 if bf16 else 1e-5, rtol=1e-2 if bf16 else 1e-5)


@pytest.mark.parametrize("name", ["pretrain", "sft-lora", "reward", "dpo", "ppo-lora", "grpo"])
def test_stages_hold_in_the_cards_own_arithmetic(name, tmp_path):
    folder = tiny_stages.make(tmp_path / "parents")
    record = tiny_stages.run(name, folder, tmp_path / name, use_cpu=False, bf16=True)["self_check"]
    assert all(one["difference"] <= one["tolerance"] for one in record["checks"])
