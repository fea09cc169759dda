"""Does it learn: a bandit over tokens, and what must not happen without a reward."""

import ppo_tiny as tiny
import pytest

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


@pytest.mark.parametrize("seed", [0, 1])
def test_a_token_bandit_is_solved(tmp_path, seed):
    rewards = tiny.logged(run(tmp_path, share_of_targets, seed=seed), "reward")
    assert rewards[0] < 0.5
    assert sum(rewards[-3:]) / 3 > 0.9


def test_without_reward_the_policy_stays_near_the_reference(tmp_path):
    result = run(tmp_path, nothing, learning_rate=1e-3, whiten_advantages=False, beta=0.1, max_steps=12)
    assert max(tiny.logged(result, "kl/completion")) < 0.05
    assert min(tiny.logged(result, "entropy")) > 3.3


def test_a_huge_beta_holds_the_policy_at_the_reference(tmp_path):
    free = run(tmp_path, share_of_targets, max_steps=16)
    held = run(tmp_path, share_of_targets, max_steps=16, beta=10.0)
    assert tiny.logged(held, "kl/completion")[-1] < 0.3 * tiny.logged(free, "kl/completion")[-1]
    assert tiny.logged(held, "reward")[-1] < 0.6
