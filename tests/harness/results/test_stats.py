"""The Wilson interval against scipy's and against its definition."""

import math

import pytest
import scipy.stats

from harness.results.stats import Z95, wilson


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 99, 100, 360, 1000, 10_000])
def test_equals_scipy(n):
    for k in sorted({*range(0, n + 1, max(1, n // 13)), 1, n - 1, n}):
        wanted = scipy.stats.binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
        assert wilson(k, n) == pytest.approx((wanted.low, wanted.high), abs=1e-12, rel=0)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_equals_scipy_at_other_levels(level):
    z = scipy.stats.norm.ppf((1 + level) / 2)
    for k in range(21):
        wanted = scipy.stats.binomtest(k, 20).proportion_ci(confidence_level=level, method="wilson")
        assert wilson(k, 20, z) == pytest.approx((wanted.low, wanted.high), abs=1e-12, rel=0)


def test_z_is_the_normal_quantile():
    assert pytest.approx(scipy.stats.norm.ppf(0.975), abs=1e-14, rel=0) == Z95


def test_nothing_seen_is_nothing_known():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", [1, 5, 17, 360, 10_000, 123_457])
def test_all_or_nothing_stays_inside_0_and_1(n):
    low, high = wilson(0, n)
    assert low == pytest.approx(0, abs=1e-15)
    assert low >= 0
    assert high == pytest.approx(Z95**2 / (n + Z95**2), rel=1e-12)
    low, high = wilson(n, n)
    assert high == pytest.approx(1, abs=1e-15)
    assert high <= 1
    assert low == pytest.approx(n / (n + Z95**2), rel=1e-12)


@pytest.mark.parametrize("n", [4, 33, 512])
def test_bounds_are_where_the_score_test_just_rejects(n):
    for k in range(1, n):
        for bound in wilson(k, n):
            score = abs(k / n - bound) / math.sqrt(bound * (1 - bound) / n)
            assert score == pytest.approx(Z95, rel=1e-9)


def test_around_the_share_symmetric_and_monotonic():
    bounds = [wilson(k, 50) for k in range(51)]
    for k, (low, high) in enumerate(bounds):
        assert low - 1e-15 <= k / 50 <= high + 1e-15
        assert (1 - high, 1 - low) == pytest.approx(bounds[50 - k], abs=1e-12)
    assert bounds == sorted(bounds)
