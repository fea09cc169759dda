"""The statistics against values worked out by hand and against scipy."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval import stats

ONES = np.ones(4)


def test_mean_and_se_by_hand():
    scores = np.array([0.0, 1.0, 1.0, 0.0])
    assert stats.weighted_mean(scores, ONES) == 0.5
    assert stats.mean_se(scores) == pytest.approx((1 / 3) ** 0.5 / 2)  # s = sqrt(1/3), n = 4
    assert np.isnan(stats.weighted_mean(np.array([]), np.array([])))


def test_se_equals_scipy_sem():
    scores = np.random.default_rng(0).normal(size=50)
    assert stats.mean_se(scores) == pytest.approx(scipy_stats.sem(scores))


def test_clustered_se_by_hand():
    # Residuals +-0.5 over n = 4: cluster sums are +1/4 and -1/4, so the variance is 2 * (1/16 + 1/16) = 1/4.
    scores, clusters = np.array([1.0, 1.0, 0.0, 0.0]), np.array(["a", "a", "b", "b"])
    assert stats.mean_se(scores, clusters=clusters) == pytest.approx(0.5)
    assert stats.mean_se(scores, clusters=clusters) > stats.mean_se(scores)
    assert np.isnan(stats.mean_se(scores, clusters=np.array(["a"] * 4)))


def test_clustered_se_covers():
    """The clustered error matches the spread over many draws of clustered data; the naive one is far too small."""
    rng, means, errors, naive = np.random.default_rng(0), [], [], []
    clusters = np.repeat(np.arange(40), 5)
    for _ in range(300):
        scores = rng.normal(size=40)[clusters] + 0.1 * rng.normal(size=200)
        means.append(scores.mean())
        errors.append(stats.mean_se(scores, clusters=clusters))
        naive.append(stats.mean_se(scores))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert np.mean(naive) < 0.6 * np.std(means)


def test_ratio_estimator_by_hand():
    # Bits 8, 4 over bytes 4, 1: ratio 12 / 5 = 2.4; residuals 8 - 2.4*4 = -1.6 and 4 - 2.4 = 1.6, over 5 bytes.
    scores, size = np.array([2.0, 4.0]), np.array([4.0, 1.0])
    assert stats.weighted_mean(scores, size) == pytest.approx(2.4)
    assert stats.mean_se(scores, size) == pytest.approx((2 * 2 * (1.6 / 5) ** 2) ** 0.5)


def test_macro_mean_and_se_by_hand():
    scores, tasks = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]), np.array(["a", "a", "b", "b", "b", "b"])
    weights, items = np.ones(6), np.arange(6)
    assert stats.macro_mean(scores, weights, tasks) == pytest.approx((0.5 + 0.75) / 2)
    influence = np.array([0.5, -0.5, 0.25, 0.25, 0.25, -0.75]) / np.array([2, 2, 4, 4, 4, 4]) / 2
    assert stats.macro_se(scores, weights, tasks, items) == pytest.approx((6 / 5 * np.sum(influence**2)) ** 0.5)


def test_a_cluster_over_two_tasks_counts_once():
    scores, tasks = np.array([1.0, 0.0, 1.0, 0.0]), np.array(["a", "a", "b", "b"])
    shared = stats.macro_se(scores, ONES, tasks, np.array([0, 1, 0, 1]))
    assert shared > stats.macro_se(scores, ONES, tasks, np.arange(4))


def test_bootstrap_is_seeded_and_near_the_normal_interval():
    scores = np.random.default_rng(1).normal(size=400)
    arguments = scores, np.ones(400), np.zeros(400), np.arange(400)
    low, high = stats.bootstrap_ci(*arguments, seed=3)
    assert (low, high) == stats.bootstrap_ci(*arguments, seed=3)
    assert (low, high) != stats.bootstrap_ci(*arguments, seed=4)
    se = stats.mean_se(scores)
    assert (low, high) == pytest.approx((scores.mean() - 1.96 * se, scores.mean() + 1.96 * se), abs=0.15 * se)


def test_bootstrap_of_one_cluster_is_undefined():
    assert np.isnan(stats.bootstrap_ci(np.zeros(2), np.ones(2), np.zeros(2), np.zeros(2))).all()


def test_mcnemar_by_hand():
    # Five fixed and none regressed: 2 * (1/2)^5.
    assert stats.mcnemar_exact(np.zeros(5), np.ones(5)) == pytest.approx(0.0625)
    assert stats.mcnemar_exact(np.ones(5), np.ones(5)) == 1.0
    assert stats.mcnemar_exact(np.array([0, 1]), np.array([1, 0])) == 1.0


def test_t_test_matches_scipy_on_paired_scores():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=30), rng.normal(0.3, size=30)
    p = stats.t_test_p((b - a).mean(), stats.mean_se(b - a), 30)
    assert p == pytest.approx(scipy_stats.ttest_rel(b, a).pvalue)
    assert stats.t_test_p(0.0, 0.0, 30) == 1.0
    assert stats.t_test_p(0.2, 0.0, 30) == 0.0
    assert stats.t_test_p(0.2, float("nan"), 1) == 1.0


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_minimum_detectable_effect():
    assert stats.minimum_detectable_effect(0.01) == pytest.approx(0.02802, abs=1e-5)
