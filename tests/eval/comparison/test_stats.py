"""The statistics against values worked out by hand, against scipy and against simulation."""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval.comparison.hypothesis_tests import holm, mcnemar_clustered, mcnemar_exact, minimum_detectable_effect, t_test_p
from eval.comparison.intervals import bootstrap_ci, macro_interval, resampled_counts, t_interval, within
from eval.comparison.standard_errors import macro_error, macro_mean, macro_se, mean_se, weighted_mean

ONES = np.ones(4)
SIMULATION = Path(__file__).parents[3] / "benchmarks/interval_coverage.py"


@pytest.fixture(scope="module")
def simulation() -> dict:
    """The functions of the benchmark that simulates pairs of checkpoints."""
    return runpy.run_path(str(SIMULATION))


def test_mean_and_se_by_hand():
    scores = np.array([0.0, 1.0, 1.0, 0.0])
    assert weighted_mean(scores, ONES) == 0.5
    assert mean_se(scores) == pytest.approx((1 / 3) ** 0.5 / 2)  # s = sqrt(1/3), n = 4
    assert np.isnan(weighted_mean(np.array([]), np.array([])))


def test_se_equals_scipy_sem():
    scores = np.random.default_rng(0).normal(size=50)
    assert mean_se(scores) == pytest.approx(scipy_stats.sem(scores))


def test_clustered_se_by_hand():
    # Residuals +-0.5 over n = 4: cluster sums are +1/4 and -1/4, so the variance is 2 * (1/16 + 1/16) = 1/4.
    scores, clusters = np.array([1.0, 1.0, 0.0, 0.0]), np.array(["a", "a", "b", "b"])
    assert mean_se(scores, clusters=clusters) == pytest.approx(0.5)
    assert mean_se(scores, clusters=clusters) > mean_se(scores)
    assert np.isnan(mean_se(scores, clusters=np.array(["a"] * 4)))


def test_clustered_se_covers():
    """The clustered error matches the spread over many draws of clustered data; the naive one is far too small."""
    rng, means, errors, naive = np.random.default_rng(0), [], [], []
    clusters = np.repeat(np.arange(40), 5)
    for _ in range(300):
        scores = rng.normal(size=40)[clusters] + 0.1 * rng.normal(size=200)
        means.append(scores.mean())
        errors.append(mean_se(scores, clusters=clusters))
        naive.append(mean_se(scores))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert np.mean(naive) < 0.6 * np.std(means)


def test_ratio_estimator_by_hand():
    # Bits 8, 4 over bytes 4, 1: ratio 12 / 5 = 2.4; residuals 8 - 2.4*4 = -1.6 and 4 - 2.4 = 1.6, over 5 bytes.
    scores, size = np.array([2.0, 4.0]), np.array([4.0, 1.0])
    assert weighted_mean(scores, size) == pytest.approx(2.4)
    assert mean_se(scores, size) == pytest.approx((2 * 2 * (1.6 / 5) ** 2) ** 0.5)


def test_macro_mean_and_se_by_hand():
    scores, tasks = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]), np.array(["a", "a", "b", "b", "b", "b"])
    weights, items = np.ones(6), np.arange(6)
    assert macro_mean(scores, weights, tasks) == pytest.approx((0.5 + 0.75) / 2)
    influence = np.array([0.5, -0.5, 0.25, 0.25, 0.25, -0.75]) / np.array([2, 2, 4, 4, 4, 4]) / 2
    factor = np.array([2, 2, 4 / 3, 4 / 3, 4 / 3, 4 / 3])  # n / (n - 1) of each task
    assert macro_se(scores, weights, tasks, items) == pytest.approx(np.sum(factor * influence**2) ** 0.5)


def test_a_cluster_over_two_tasks_counts_once():
    scores, tasks = np.array([1.0, 0.0, 1.0, 0.0]), np.array(["a", "a", "b", "b"])
    shared = macro_se(scores, ONES, tasks, np.array([0, 1, 0, 1]))
    assert shared > macro_se(scores, ONES, tasks, np.arange(4))


def test_bootstrap_is_seeded_and_near_the_normal_interval():
    scores = np.random.default_rng(1).normal(size=400)
    arguments = scores, np.ones(400), np.zeros(400), np.arange(400)
    low, high = bootstrap_ci(*arguments, seed=3)
    assert (low, high) == bootstrap_ci(*arguments, seed=3)
    assert (low, high) != bootstrap_ci(*arguments, seed=4)
    se = mean_se(scores)
    assert (low, high) == pytest.approx((scores.mean() - 1.96 * se, scores.mean() + 1.96 * se), abs=0.15 * se)


def test_bootstrap_of_one_cluster_is_undefined():
    assert np.isnan(bootstrap_ci(np.zeros(2), np.ones(2), np.zeros(2), np.zeros(2))).all()


def test_mcnemar_by_hand():
    # Five fixed and none regressed: 2 * (1/2)^5.
    assert mcnemar_exact(np.zeros(5), np.ones(5)) == pytest.approx(0.0625)
    assert mcnemar_exact(np.ones(5), np.ones(5)) == 1.0
    assert mcnemar_exact(np.array([0, 1]), np.array([1, 0])) == 1.0


def test_t_test_matches_scipy_on_paired_scores():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=30), rng.normal(0.3, size=30)
    p = t_test_p((b - a).mean(), mean_se(b - a), 30)
    assert p == pytest.approx(scipy_stats.ttest_rel(b, a).pvalue)
    for delta, se, clusters in ((0.0, 0.0, 30), (0.2, 0.0, 30), (0.2, 0.0, 2), (0.2, float("nan"), 1), (0.2, 0.1, 1)):
        assert np.isnan(t_test_p(delta, se, clusters))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    nan = float("nan")
    assert holm([nan, 0.01, 0.04, nan, 0.03]) == pytest.approx([nan, 0.03, 0.06, nan, 0.06], nan_ok=True)
    assert np.isnan(holm([nan])).all()


def test_minimum_detectable_effect():
    assert minimum_detectable_effect(0.01, 10**6) == pytest.approx(0.02802, abs=1e-5)
    t10, t80 = scipy_stats.t.ppf([0.975, 0.8], 9)
    assert minimum_detectable_effect(0.01, 10) == pytest.approx(0.01 * (t10 + t80))
    for unknown in (0.0, float("nan")):
        assert np.isnan(minimum_detectable_effect(unknown, 10))


def test_the_minimum_detectable_effect_is_found_four_times_in_five():
    """Its definition, by simulation: 2,000 differences of 30 clusters, as large as it says for the true error."""
    noise = np.random.default_rng(0).normal(size=(2000, 30))
    effect = minimum_detectable_effect(1 / 30**0.5, 30)
    p = [t_test_p(np.mean(row), mean_se(row), 30) for row in noise + effect]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.8, abs=0.03)


def test_t_interval_is_scipys():
    scores = np.random.default_rng(4).normal(size=12)
    found = t_interval(scores.mean(), mean_se(scores), 12, level=0.9)
    assert found == pytest.approx(scipy_stats.ttest_1samp(scores, 0).confidence_interval(0.9))
    for value, se, clusters in ((0.5, float("nan"), 1), (0.5, 0.1, 1), (0.5, 0.0, 5), (0.0, 0.0, 5)):
        assert np.isnan(t_interval(value, se, clusters)).all()


def test_eight_clusters_of_ten_by_brute_force():
    """tinyworld's person_fact: 80 questions about 8 people, 0 right before and 74 after.

    All sign changes of whole clusters (the wild cluster bootstrap with the null hypothesis imposed, in full) give the
    exact test's p of 2 / 2^8; and the squared standard error is, in the mean, the variance of the mean over clusters.
    """
    right = np.array([10, 10, 7, 10, 9, 8, 10, 10])
    clusters = np.repeat(np.arange(8), 10)
    change = np.concatenate([np.arange(10) < count for count in right]).astype(float)
    totals = np.array([np.dot(signs, right) for signs in itertools.product((-1, 1), repeat=8)])
    brute = np.mean(np.abs(totals) >= right.sum())
    assert mcnemar_clustered(change, clusters) == pytest.approx(brute) == pytest.approx(2 / 2**8)

    rng = np.random.default_rng(0)
    rates = rng.beta(4, 1, size=(4000, 8))  # people differ
    counts = rng.binomial(10, rates)
    means = counts.sum(axis=1) / 80
    errors = [mean_se(np.concatenate([np.arange(10) < k for k in row]), clusters=clusters) for row in counts[:1000]]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(means.std(), rel=0.05)
    independent = [mean_se(np.concatenate([np.arange(10) < k for k in row])) for row in counts[:1000]]
    assert np.sqrt(np.mean(np.square(independent))) < 0.8 * means.std()  # clusters matter


def test_an_interval_stays_within_what_is_possible():
    assert within((-0.2, 1.4), 0.0, 1.0) == (0.0, 1.0) and within((0.2, 0.4), 0.0, 1.0) == (0.2, 0.4)
    assert np.isnan(within((float("nan"),) * 2, -1.0, 1.0)).all()


def test_the_t_interval_excludes_zero_where_the_t_test_finds_a_difference():
    rng = np.random.default_rng(5)
    for shift in np.linspace(0, 1, 40):
        change, clusters = rng.normal(shift, size=30), np.arange(30) // 3
        mean, se = change.mean(), mean_se(change, clusters=clusters)
        low, high = t_interval(mean, se, 10)
        assert (low > 0 or high < 0) == (t_test_p(mean, se, 10) < 0.05)


def test_the_interval_covers(simulation):
    """1,000 simulated pairs of checkpoints, 200 items in 40 clusters, right or wrong: the true difference is inside."""
    shares = simulation["coverage"](40, 1000, seed=0)
    assert 0.93 <= shares["t"] <= 0.97
    assert shares["t, clusters ignored"] < 0.90


def test_the_interval_of_few_clusters_covers_and_the_percentile_bootstrap_does_not(simulation):
    shares = simulation["coverage"](5, 1000, seed=1)
    assert 0.93 <= shares["t"] <= 0.97
    assert shares["percentile bootstrap"] < 0.87 and shares["normal"] < 0.90


def test_where_the_interval_falls_short(simulation):
    """Five clusters of unequal size, or few changed items in ten clusters: below what is claimed, as the docs say."""
    unequal = simulation["coverage"](5, 1000, seed=2, sizes="unequal")["t"]
    sparse = simulation["coverage"](10, 1000, seed=2, spread="few changes")["t"]
    assert 0.88 < unequal < 0.94 and 0.88 < sparse < 0.94


def test_tests_of_equal_checkpoints(simulation):
    """The exact test by clusters is called wrong no more than it says; McNemar's, blind to clusters, far more."""
    shares = simulation["false_alarms"](20, 1000, seed=0)
    assert shares["exact, by cluster"] <= 0.065 and shares["t, by cluster"] <= 0.065
    assert shares["McNemar, clusters ignored"] > 0.12


def test_clustered_mcnemar_by_enumeration():
    """Every change of sign of whole clusters, written out."""
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(9), 4)
    for _ in range(20):
        change = rng.integers(-1, 2, size=36)
        sums = np.array([change[clusters == c].sum() for c in range(9)])
        totals = [abs(np.dot(signs, sums)) for signs in itertools.product([-1, 1], repeat=9)]
        expected = np.mean(np.array(totals) >= abs(change.sum()))
        assert mcnemar_clustered(change, clusters) == pytest.approx(expected)


def test_clustered_mcnemar_of_single_items_is_mcnemars():
    rng = np.random.default_rng(7)
    for n in (0, 1, 5, 60, 400):
        a, b = rng.integers(0, 2, size=(2, n))
        expected = mcnemar_exact(a, b)
        assert mcnemar_clustered((b - a).astype(float), np.arange(n)) == pytest.approx(expected)


def test_clustered_mcnemar_by_hand():
    ten_of_one = np.ones(10), np.zeros(10)
    assert mcnemar_clustered(*ten_of_one) == 1.0  # one cluster: its sign is a coin's
    assert mcnemar_clustered(np.ones(10), np.arange(10) // 2) == pytest.approx(2 / 2**5)
    assert mcnemar_clustered(np.array([1, -1, 0]), np.array([0, 0, 1])) == 1.0
    assert mcnemar_clustered(np.zeros(3), np.arange(3)) == 1.0


def test_bootstrap_resamples_have_as_many_clusters():
    blocks = list(resampled_counts(7, 2500, seed=0))
    counts = np.concatenate(blocks)
    assert counts.shape == (2500, 7) and (counts.sum(axis=1) == 7).all()
    assert counts.var() == pytest.approx(7 * (1 / 7) * (6 / 7), rel=0.05)  # binomial
    assert [len(block) for block in resampled_counts(300_000, 7, seed=0)] == [3, 3, 1]


def macro_data(rng, sizes):
    tasks = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=len(tasks)), np.ones(len(tasks)), tasks, np.arange(len(tasks))


def test_a_macro_mean_of_one_task_is_a_mean():
    rng = np.random.default_rng(8)
    scores, weights, clusters = rng.normal(size=30), rng.uniform(1, 5, size=30), rng.integers(0, 7, size=30)
    se, df, most = macro_error(scores, weights, np.zeros(30), clusters)
    assert se == pytest.approx(mean_se(scores, weights, clusters)) and (df, most) == pytest.approx((6, 6))


def test_a_macro_difference_of_two_tasks_is_welchs():
    """The mean of two tasks, one with its sign turned, is half of what Welch's test compares: the same error and df."""
    x, y = np.random.default_rng(9).normal(size=5), np.random.default_rng(10).normal(0, 4, size=9)
    se, df, most = macro_error(np.append(x, -y), np.ones(14), np.repeat([0, 1], [5, 9]), np.arange(14))
    welch = scipy_stats.ttest_ind(x, y, equal_var=False)
    assert (x.mean() - y.mean()) / 2 / se == pytest.approx(welch.statistic)
    assert df == pytest.approx(welch.df) and most == 12
    delta = (x.mean() - y.mean()) / 2
    assert t_test_p(delta, se, 14, df=df) == pytest.approx(welch.pvalue)


def test_the_macro_error_does_not_depend_on_labels_order_or_units():
    rng = np.random.default_rng(11)
    scores, weights, tasks, clusters = macro_data(rng, [2, 3, 7, 4])
    clusters = clusters // 2 * 2  # some reach over two tasks
    clusters[:2] = [50, 51]
    found = macro_error(scores, weights, tasks, clusters)
    order = rng.permutation(len(scores))
    names = np.array([f"t{9 - t}" for t in tasks], dtype=object), np.array([f"c{c % 13}-{c}" for c in clusters])
    shuffled = macro_error(3 * scores[order] + 5, weights[order], *(name[order] for name in names))
    assert shuffled == pytest.approx((3 * found.se, found.df, found.most_df))


def test_a_task_with_one_cluster_leaves_no_error():
    scores, weights, tasks, clusters = macro_data(np.random.default_rng(12), [5, 1, 5])
    for labels in (clusters, np.where(tasks == 0, 0, clusters)):
        assert np.isnan(macro_error(scores, weights, tasks, labels)).all()
        assert np.isnan(macro_interval(scores, weights, tasks, labels)).all()


def test_what_does_not_vary_has_no_error_but_for_rounding():
    tasks, weights = np.repeat([0, 1, 2], 3), np.ones(9)
    change = np.array([0.3 + 0.1 * i - 0.1 * i for i in range(9)])
    assert len(set(change)) > 1  # rounding
    assert macro_se(change, weights, tasks, np.arange(9)) == 0 == mean_se(change)


def test_a_cluster_that_is_in_all_tasks_counts_as_one():
    """Whole clusters over all tasks: the macro mean is the mean of the clusters' means, with their t-test."""
    values = np.random.default_rng(13).normal(size=(6, 4))  # clusters, tasks
    tasks, clusters = np.tile(np.arange(4), 6), np.repeat(np.arange(6), 4)
    se, df, _ = macro_error(values.ravel(), np.ones(24), tasks, clusters)
    assert se == pytest.approx(scipy_stats.sem(values.mean(axis=1))) and df == pytest.approx(5)


def test_one_cluster_that_weighs_as_much_as_all_others_leaves_few_degrees_of_freedom():
    tasks, clusters = np.repeat(np.arange(20), 3), np.arange(60)
    scores = np.random.default_rng(14).normal(size=60)
    apart = macro_error(scores, np.ones(60), tasks, clusters).df
    shared = macro_error(scores, np.ones(60), tasks, np.where(clusters % 3 == 0, 0, clusters)).df
    assert apart > 15 and shared < 2


@pytest.mark.parametrize(("tasks", "items", "rate"), [(57, 3, 0.8), (57, 5, 0.95), (15, 84, 0.5)])
def test_the_interval_of_a_macro_mean_covers(simulation, tasks, items, rate):
    shares = simulation["macro_coverage"](tasks, items, rate, 300, seed=3)
    for kind in ("difference", "one model"):
        assert 0.92 <= shares[kind] <= 0.98  # 0.95 -+ about 2.5 standard errors; the full run has the figures
    assert items > 3 or shares["pooled factor"] < 0.92  # one factor for all clusters together


def test_the_interval_of_right_or_wrong_scores_stays_within_them():
    ones = np.ones(20)
    low, high = macro_interval(ones, ones, np.zeros(20), np.arange(20))
    assert 0.75 < low < 0.9 and high == pytest.approx(1)
    graded = np.linspace(0, 1, 20)
    expected = scipy_stats.ttest_1samp(graded, 0).confidence_interval()
    assert macro_interval(graded, ones, np.zeros(20), np.arange(20)) == pytest.approx(expected)


def test_a_task_that_a_resample_misses_is_left_out_of_its_mean():
    scores, tasks = np.array([1.0, 0.0, 1.0, 0.0, 1.0]), np.array([0, 0, 0, 0, 1])
    with np.errstate(all="raise"):
        low, high = bootstrap_ci(scores, np.ones(5), tasks, np.arange(5), iterations=200)
    assert 0 <= low < high == 1
