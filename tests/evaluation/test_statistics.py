"""Intervals, paired tests and pass@k against closed forms, published figures and scipy."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from aflow_jax.evaluation.statistics import (
    bootstrap_interval,
    mcnemar_exact,
    paired_bootstrap,
    pass_at_k,
    wilson_interval,
)


def test_wilson_interval_solves_its_equation_and_equals_scipys():
    for trials in (1, 7, 40, 500):
        for successes in sorted({0, 1, trials // 3, trials - 1, trials}):
            interval = wilson_interval(successes, trials)
            known = stats.binomtest(successes, trials).proportion_ci(method="wilson")
            assert (interval.low, interval.high) == pytest.approx((known.low, known.high), abs=1e-12)
            for end in (interval.low, interval.high):  # |p̂ − p| = z √(p(1 − p)/n)
                spread = stats.norm.ppf(0.975) * math.sqrt(end * (1 - end) / trials)
                if 0 < end < 1:
                    assert abs(successes / trials - end) == pytest.approx(spread, rel=1e-9)
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == 1.0


def test_wilson_interval_covers_as_often_as_it_says_over_all_outcomes():
    trials, truth = 60, np.linspace(0.05, 0.95, 91)
    counts = np.arange(trials + 1)
    ends = [wilson_interval(int(count), trials) for count in counts]
    inside = np.array([[end.low <= p <= end.high for end in ends] for p in truth])
    coverage = [(stats.binom.pmf(counts, trials, p) * row).sum() for p, row in zip(truth, inside, strict=True)]
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
    assert min(coverage) > 0.91


def test_mcnemar_equals_the_exact_binomial_test_of_the_discordant_pairs():
    for only_first, only_second in [(0, 0), (1, 0), (3, 3), (8, 2), (0, 12), (160, 121)]:
        first = [True] * only_first + [False] * only_second + [True, False]
        second = [False] * only_first + [True] * only_second + [True, False]
        found = mcnemar_exact(first, second)
        assert (found.only_first, found.only_second) == (only_first, only_second)
        both = only_first + only_second
        known = stats.binomtest(only_first, both, 0.5).pvalue if both else 1.0
        assert found.p == pytest.approx(known, rel=1e-12)
    assert mcnemar_exact([True] * 5, [False] * 5).p == 2 / 2**5


def test_paired_tests_are_symmetrical():
    generator = np.random.default_rng(0)
    first, second = generator.random(50) < 0.7, generator.random(50) < 0.5
    ours, theirs = mcnemar_exact(first, second), mcnemar_exact(second, first)
    assert ours.p == theirs.p
    assert (ours.only_first, ours.only_second) == (theirs.only_second, theirs.only_first)
    ours, theirs = paired_bootstrap(first, second, 1), paired_bootstrap(second, first, 1)
    assert ours.p == theirs.p
    assert (ours.difference, ours.low, ours.high) == pytest.approx((-theirs.difference, -theirs.high, -theirs.low))


def test_the_bootstrap_is_that_of_the_mean_and_depends_on_the_seed_alone():
    values = np.random.default_rng(3).random(400)
    interval = bootstrap_interval(values, seed=4)
    normal = stats.norm.interval(0.95, values.mean(), values.std() / math.sqrt(400))
    assert (interval.low, interval.high) == pytest.approx(normal, abs=0.003)
    assert bootstrap_interval(values, seed=4) == interval
    assert bootstrap_interval(values, seed=5) != interval
    assert bootstrap_interval([1.0] * 9, seed=0).low == 1.0


def test_paired_bootstrap_sees_what_pairing_shows_and_nothing_where_nothing_differs():
    base = np.random.default_rng(0).random(80)
    better = paired_bootstrap(base + 0.01 + np.tile([0.0, 0.01], 40), base, 0)
    assert better.difference == pytest.approx(0.015)
    assert 0.01 < better.low < better.high < 0.02
    assert better.p == pytest.approx(2 / 10_001)
    same = paired_bootstrap(base, base, 0)
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample():
    for samples in range(1, 7):
        for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
            outcomes = [True] * right + [False] * (samples - right)
            subsets = list(itertools.combinations(outcomes, k))
            assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)
    assert pass_at_k(200, 3, 1) == pytest.approx(3 / 200)


def test_figures_of_nothing_are_refused():
    with pytest.raises(ValueError):
        wilson_interval(0, 0)
    with pytest.raises(ValueError):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError):
        paired_bootstrap([], [], 0)
    with pytest.raises(ValueError):
        mcnemar_exact([True], [])
