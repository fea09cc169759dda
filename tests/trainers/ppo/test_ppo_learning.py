"""Learning on small tasks, and no drift without a reward."""

import ppo_tiny as tiny
import pytest
import torch

TARGETS = set(range(10, 20))


def share_of_targets(completion_ids, **kwargs) -> list[float]:
    return [sum(token in TARGETS for token in ids) / len(ids) for ids in completion_ids]


def nothing(completion_ids, **kwargs) -> list[float]:
    return [0.0] * len(completion_ids)


def run(path, reward, **arguments):
    defaults = {
        "per_device_train_batch_size": 32,
        "num_iterations": 2,
        "max_steps": 24,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "constant",
        "beta": 0.01,
        "cliprange_value": None,
    }
    result = tiny.trainer(path, reward_funcs=reward, dataset=tiny.prompts(64), arguments=defaults | arguments)
    result.train()
    return result


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_a_token_bandit_is_solved(tmp_path, seed):
    rewards = tiny.logged(run(tmp_path, share_of_targets, seed=seed), "reward")
    assert rewards[0] < 0.5
    assert sum(rewards[-3:]) / 3 > 0.9


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_the_policy_ends_near_the_analytic_optimum(tmp_path, placement):
    """With one token per completion the optimum is pi_ref * exp(reward / beta), normalised."""
    beta = 0.5
    arguments = {
        "max_completion_length": 1,
        "beta": beta,
        "kl_placement": placement,
        "kl_estimator": "k1" if placement == "reward" else "k2",
        "per_device_train_batch_size": 128,
        "max_steps": 40,
        "num_iterations": 1,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "whiten_advantages": False,
    }
    reference = tiny.model()
    result = run(tmp_path, share_of_targets, **arguments)
    ids = torch.tensor([[4], [5], [6]])
    rewards = torch.tensor([float(token in TARGETS) for token in range(30)])
    with torch.no_grad():
        optimum = (reference(ids).logits[:, -1].log_softmax(-1) + rewards / beta).softmax(-1)
        found = result.model.eval()(ids).logits[:, -1].softmax(-1)
    start = reference(ids).logits[:, -1].softmax(-1)[:, 10:20].sum(-1)
    assert (start < 0.45).all() and (optimum[:, 10:20].sum(-1) > 0.7).all()
    torch.testing.assert_close(found[:, 10:20].sum(-1), optimum[:, 10:20].sum(-1), atol=0.05, rtol=0)
    assert 0.5 * (found - optimum).abs().sum(-1).max() < 0.1  # total variation


def first_is_a_target(completion_ids, **kwargs) -> list[float]:
    return [float(ids[0] in TARGETS) for ids in completion_ids]


def test_a_delayed_reward_is_learned_through_the_critic(tmp_path):
    """With lambda 0 the last token's reward reaches the first token only through the values."""
    arguments = {"lam": 0.0, "max_steps": 96, "num_iterations": 4, "learning_rate": 3e-3, "vf_coef": 1.0}
    arguments |= {"max_completion_length": 2}
    learned, without = [
        tiny.logged(run(tmp_path, first_is_a_target, **arguments, value_learning_rate=rate), "reward")
        for rate in (1e-2, 0.0)
    ]
    assert sum(learned[-3:]) / 3 > 0.8
    assert sum(without[-3:]) / 3 < 0.6


def test_a_reward_that_does_not_depend_on_the_completion_teaches_nothing(tmp_path):
    def shuffled(completion_ids, **kwargs) -> list[float]:
        rewards = share_of_targets(completion_ids)
        return rewards[1:] + rewards[:1]

    rewards = tiny.logged(run(tmp_path, shuffled), "reward")
    assert sum(rewards[-3:]) / 3 < 0.6


def test_without_reward_the_policy_stays_near_the_reference(tmp_path):
    result = run(tmp_path, nothing, learning_rate=1e-3, whiten_advantages=False, beta=0.1, max_steps=12)
    assert max(tiny.logged(result, "kl/completion")) < 0.05
    assert min(tiny.logged(result, "entropy")) > 3.3


def test_a_huge_beta_holds_the_policy_at_the_reference(tmp_path):
    free = run(tmp_path, share_of_targets, max_steps=16)
    held = run(tmp_path, share_of_targets, max_steps=16, beta=10.0)
    assert tiny.logged(held, "kl/completion")[-1] < 0.3 * tiny.logged(free, "kl/completion")[-1]
    assert tiny.logged(held, "reward")[-1] < 0.6
