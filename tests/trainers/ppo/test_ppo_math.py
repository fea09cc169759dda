"""The arithmetic of PPO against naive loops, hand values and exact sums."""

import itertools

import pytest
import torch

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.experience import make_targets
from alignment.trainers.ppo.metrics import Metrics
from alignment.trainers.ppo.rollout import Rollout


def naive_gae(rewards, values, gamma, lam):
    """Advantages of one unpadded row as the sum of discounted TD errors."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * nxt - v for r, v, nxt in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


@pytest.mark.parametrize("gamma, lam", [*itertools.product([0.0, 1.0], repeat=2), (0.9, 0.95)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gae_equals_a_naive_loop_whatever_the_padding(gamma, lam, side):
    torch.manual_seed(0)
    lengths = [1, 3, 7, 7]
    rewards, values = torch.randn(4, 7), torch.randn(4, 7)
    columns = torch.arange(7)
    mask = torch.stack([columns < n if side == "right" else columns >= 7 - n for n in lengths])
    advantages, returns = maths.gae(rewards, values, mask, gamma, lam)
    for row in range(4):
        expected = naive_gae(rewards[row, mask[row]].tolist(), values[row, mask[row]].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[row, mask[row]], torch.tensor(expected))
    assert not advantages[~mask].any() and not returns[~mask].any()


def test_with_lambda_1_the_return_is_the_sum_of_the_rewards_to_come():
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 5), torch.randn(2, 5)
    _, returns = maths.gae(rewards, values, torch.ones(2, 5).bool(), 1.0, 1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))


def test_gae_of_completions_of_one_token():
    advantages, returns = maths.gae(torch.tensor([[2.0]]), torch.tensor([[0.5]]), torch.ones(1, 1).bool(), 0.9, 0.95)
    assert advantages.tolist() == [[1.5]] and returns.tolist() == [[2.0]]


def test_a_masked_mean_over_a_single_position_and_over_none():
    values = torch.tensor([[3.0, 9.0]])
    assert maths.masked_mean(values, torch.tensor([[True, False]])) == 3
    assert maths.masked_mean(values, torch.zeros(1, 2).bool()) == 0


def test_whitening_covers_only_the_mask():
    values = torch.tensor([[1.0, 3.0, 99.0], [5.0, 7.0, -99.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()
    spread = 5**0.5
    expected = torch.tensor([[-3 / spread, -1 / spread, 0], [1 / spread, 3 / spread, 0]])
    torch.testing.assert_close(maths.whiten(values, mask), expected)


def test_log_probs_and_entropy_equal_those_of_the_softmax():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    log_softmax = logits.log_softmax(-1)
    torch.testing.assert_close(
        maths.token_log_probs(logits, ids), log_softmax.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    )
    torch.testing.assert_close(maths.entropy(logits), -(log_softmax.exp() * log_softmax).sum(-1))


def test_kl_estimators_average_to_the_exact_kl():
    torch.manual_seed(0)
    p, q = torch.randn(6).log_softmax(0), torch.randn(6).log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    for estimator in [maths.kl_k1, maths.kl_k3]:
        torch.testing.assert_close((p.exp() * estimator(p, q)).sum(), exact)
    assert (maths.kl_k3(p, q) >= 0).all() and (maths.kl_k1(p, q) < 0).any()


def test_k2_has_the_gradient_of_the_kl_and_k1_has_a_mean_gradient_of_0():
    torch.manual_seed(0)
    logits, ref = torch.randn(6, requires_grad=True), torch.randn(6).log_softmax(-1)
    log_probs = logits.log_softmax(-1)
    exact = torch.autograd.grad((log_probs.exp() * (log_probs - ref)).sum(), logits, retain_graph=True)[0]
    for estimator, expected in [("k2", exact), ("k1", torch.zeros(6))]:
        values = maths.KL_ESTIMATORS[estimator](log_probs, ref)
        found = torch.autograd.grad((log_probs.exp().detach() * values).sum(), logits, retain_graph=True)[0]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_adaptive_coefficient_moves_towards_its_target_by_a_clipped_error():
    adapted = maths.adapted_coefficient
    assert adapted(0.1, kl=6.0, target=6.0, horizon=100, count=10) == 0.1
    assert adapted(0.1, kl=6.6, target=6.0, horizon=100, count=10) == pytest.approx(0.1 * 1.01)
    assert adapted(0.1, kl=60.0, target=6.0, horizon=100, count=10) == pytest.approx(0.1 * 1.02)
    assert adapted(0.1, kl=-5.0, target=6.0, horizon=100, count=10) == pytest.approx(0.1 * 0.98)


def test_a_truncated_row_may_count_the_value_after_its_last_token():
    rewards, values = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 4.0]]), torch.zeros(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    _, returns = maths.gae(rewards, values, mask, 0.5, 1.0, final_values=torch.tensor([8.0, 0.0]))
    torch.testing.assert_close(returns, torch.tensor([[1 + 0.5 * (2 + 0.5 * 8), 2 + 0.5 * 8, 0], [1.0, 2.0, 4.0]]))


def test_scaling_keeps_the_sign_of_the_mean():
    values, mask = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]])
    torch.testing.assert_close(maths.scale(values, mask), torch.tensor([[1.0, 3.0, 0.0]]))  # variance 1 already
    torch.testing.assert_close(maths.scale(10 * values, mask), torch.tensor([[1.0, 3.0, 0.0]]))


def test_dual_clip_bounds_what_a_negative_advantage_costs():
    ratio = torch.tensor([[0.5, 1.0, 2.0, 9.0]])
    ones = torch.ones(1, 4)
    loss, _, clipped = maths.policy_loss(ratio.log(), torch.zeros(1, 4), -ones, 0.2, delta=3.0)
    torch.testing.assert_close(loss, torch.tensor([[0.8, 1.0, 2.0, 3.0]]))
    assert clipped.tolist() == [[True, False, False, True]]
    loss, _, _ = maths.policy_loss(ratio.log(), torch.zeros(1, 4), ones, 0.2, delta=3.0)
    torch.testing.assert_close(loss, torch.tensor([[-0.5, -1.0, -1.2, -1.2]]))


def test_the_missing_eos_penalty_is_subtracted_or_replaces_the_score():
    scores, truncated = torch.tensor([2.0, 3.0]), torch.tensor([True, False])
    assert maths.shape_scores(scores, truncated, 0.5, None, 1.0, "subtract").tolist() == [0.5, 2.5]
    assert maths.shape_scores(scores, truncated, 0.5, None, 1.0, "replace").tolist() == [-1.0, 2.5]


def test_the_last_token_has_the_whole_score():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
    kl = torch.tensor([[0.1, 0.2, 9.0], [9.0, 0.3, 0.4]])
    rewards = maths.token_rewards(torch.tensor([2.0, -1.0]), kl, mask, beta=0.5)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 1.9, 0.0], [0.0, -0.15, -1.2]]))


def test_scores_minus_the_baseline_are_clipped_then_penalised():
    scores, truncated = torch.tensor([5.0, 1.5, -9.0]), torch.tensor([True, False, True])
    shaped = maths.shape_scores(scores, truncated, baseline=1.0, clip=2.0, missing_eos_penalty=0.25)
    torch.testing.assert_close(shaped, torch.tensor([1.75, 0.5, -2.25]))
    torch.testing.assert_close(maths.shape_scores(scores, truncated, 0.0, None, None), scores)


def test_policy_loss_against_hand_values():
    log_ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]]).log()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 2.0]])
    loss, ratio, is_clipped = maths.policy_loss(log_ratio, torch.zeros(1, 5), advantages, epsilon=0.2)
    torch.testing.assert_close(loss, torch.tensor([[-1.2, 1.5, -0.5, 0.8, -2.2]]))
    torch.testing.assert_close(ratio, log_ratio.exp())
    assert is_clipped.tolist() == [[True, False, False, True, False]]


def test_ratios_are_bounded_by_e_to_the_twentieth():
    far, zero = torch.tensor([[100.0, -100.0]]), torch.zeros(1, 2)
    bound = torch.tensor([[20.0, -20.0]])
    _, ratio, _ = maths.policy_loss(far, zero, torch.ones(1, 2), epsilon=0.2)
    torch.testing.assert_close(ratio, bound.exp())
    torch.testing.assert_close(maths.kl_k3(zero, far), bound.expm1() - bound)


def test_values_are_clipped_around_the_old_ones():
    values, old, returns = torch.tensor([[5.0, 5.0]]), torch.tensor([[2.0, 4.9]]), torch.tensor([[4.0, 4.0]])
    # Near: 2.5, 1.5 off and worse than 1 off; 5.0, moved by less than the clip.
    torch.testing.assert_close(maths.value_loss(values, old, returns, 0.5), torch.tensor([[1.125, 0.5]]))


def test_value_loss_against_hand_values():
    values, old, returns = torch.tensor([[1.0, 0.1]]), torch.zeros(1, 2), torch.tensor([[1.0, 1.0]])
    torch.testing.assert_close(maths.value_loss(values, old, returns, 0.2), torch.tensor([[0.32, 0.405]]))
    torch.testing.assert_close(maths.value_loss(values, old, returns, None), torch.tensor([[0.0, 0.405]]))


def test_explained_variance_and_correlation():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[1, 1, 1, 0]]).bool()
    assert maths.explained_variance(returns, returns, mask) == 1
    assert maths.explained_variance(torch.zeros(1, 4), returns, mask) == 0
    line = torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(maths.correlation(line, -3 * line + 1), torch.tensor(-1.0))
    assert maths.correlation(line, torch.ones(3)) == 0


PLAIN = {"gamma": 0.5, "lam": 1.0, "whiten_advantages": False}


def experience(scores, **keys) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Targets and metrics of two completions: a terminated one of two tokens and a truncated one of three."""
    mask = torch.tensor([[False, True, True], [True, True, True]])
    kl = torch.tensor([[9.0, 1.0, 2.0], [0.0, 1.0, 3.0]])
    rollout = Rollout(mask.long(), mask, mask, torch.tensor([True, False]))
    outputs = torch.tensor([[7.0, 0.5, 1.0, 5.0], [0.2, 0.4, 0.6, 2.0]])
    args = PPOConfig("unused", use_cpu=True, **{**PLAIN, **keys})
    metrics = Metrics()
    targets = make_targets(rollout, torch.tensor(scores), kl, outputs, args, 0.1, 0.5, metrics, maths.identity)
    return vars(targets), metrics.pop()


def test_targets_against_hand_values():
    rewards = torch.tensor([[0.0, -0.1, 0.8], [0.0, -0.1, 1.7]])  # scores less the baseline, and the KL at 0.1
    advantages = torch.tensor([[0.0, -0.2, -0.2], [0.175, 0.35, 1.1]])
    values = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.4, 0.6]])
    plain, figures = experience([1.5, 2.5])
    torch.testing.assert_close(plain["advantages"], advantages)
    torch.testing.assert_close(plain["returns"], advantages + values)
    torch.testing.assert_close(plain["old_values"], values)
    assert plain["loss_mask"].tolist() == [[False, True, True], [True, True, True]]
    assert figures["advantages/mean"] == pytest.approx(1.225 / 5)
    # lam_critic 0: the critic's returns look one step ahead; the truncated completion bootstraps with the last value.
    booted, _ = experience([1.5, 2.5], lam_critic=0.0, bootstrap_truncated=True)
    torch.testing.assert_close(booted["advantages"], torch.tensor([[0.0, -0.2, -0.2], [0.425, 0.85, 2.1]]))
    torch.testing.assert_close(booted["returns"], torch.tensor([[0.0, 0.4, 0.8], [0.2, 0.2, 2.7]]))
    scaled, _ = experience([1.5, 2.5], whiten_rewards=True, lam_critic=0.0, gamma=0.0)
    torch.testing.assert_close(scaled["returns"], maths.scale(rewards, plain["loss_mask"]))
    whitened, same = experience([1.5, 2.5], whiten_advantages=True)
    torch.testing.assert_close(whitened["advantages"], maths.whiten(advantages, plain["loss_mask"]))
    assert same == figures


def test_completions_without_a_score_or_an_end_may_be_masked():
    assert experience([float("nan"), 2.5])[0]["loss_mask"].tolist() == [[False] * 3, [True] * 3]
    cut = experience([1.5, 2.5], mask_truncated_completions=True)[0]["loss_mask"]
    assert cut.tolist() == [[False, True, True], [False] * 3]
