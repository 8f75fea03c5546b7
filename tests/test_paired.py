"""Paired tests: McNemar against scipy's binomial test, the bootstrap against resampling by image, Holm by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from mifad_lite.evaluate import holm, mcnemar_test, paired_bootstrap


def hits(both, only_a, only_b, neither):
    """Hits of two networks with so many images of each kind."""
    kinds = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, only_a, only_b, neither], axis=0).astype(bool)
    return kinds[:, 0], kinds[:, 1]


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_mcnemar_is_the_sign_test_of_the_disagreements(only_a, only_b, both):
    result = mcnemar_test(*hits(both, only_a, only_b, 1))
    assert (result["only_a"], result["only_b"]) == (only_a, only_b)
    n = only_a + only_b
    assert result["p"] == pytest.approx(binomtest(only_a, n).pvalue if n else 1.0, rel=1e-9)


def test_mcnemar_depends_on_disagreements_alone_and_not_on_the_order():
    assert mcnemar_test(*hits(0, 9, 2, 0))["p"] == mcnemar_test(*hits(500, 2, 9, 77))["p"] == 2 * (1 + 11 + 55) / 2**11
    assert mcnemar_test(*hits(7, 0, 0, 3)) == {"only_a": 0, "only_b": 0, "p": 1.0}
    assert 0 < mcnemar_test(*hits(0, 900, 100, 0))["p"] < 1e-100
    a, b = hits(3, 9, 2, 1)
    assert mcnemar_test(a.astype(int), b.tolist()) == mcnemar_test(a, b)


def test_mcnemar_is_exact_where_it_should_be():
    """Under fair coins p < 0.05 comes up in at most 5 of 100 experiments."""
    rng = np.random.default_rng(0)
    found = [mcnemar_test(*(rng.random((2, 300)) < 0.7))["p"] < 0.05 for _ in range(2000)]
    assert 0.025 < np.mean(found) < 0.06


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((0,), (0,)), ((2, 3), (2, 3))])
def test_mcnemar_wants_the_same_images(shapes):
    with pytest.raises(ValueError, match="the same images"):
        mcnemar_test(*(np.ones(s, bool) for s in shapes))


def test_bootstrap_is_resampling_image_by_image():
    rng = np.random.default_rng(1)
    a, b = rng.random((3, 200)) < 0.75, rng.random((3, 200)) < 0.7
    result = paired_bootstrap(a, b, samples=4000)
    d = a.mean(0) - b.mean(0)
    slow = np.array([d[rng.integers(0, 200, 200)].mean() for _ in range(4000)])
    assert result["difference"] == pytest.approx(d.mean(), abs=1e-12)
    assert result["interval_95"] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.006)
    z = d.mean() / (d.std() / 200**0.5)
    assert result["p"] == pytest.approx(2 * norm.sf(abs(z)), abs=0.03)


def test_bootstrap_of_one_seed_and_of_extremes():
    a, b = hits(50, 20, 5, 25)
    assert paired_bootstrap(a, b) == paired_bootstrap(a[None], b[None])
    assert paired_bootstrap(a, a) == {"difference": 0.0, "interval_95": [0.0, 0.0], "p": 1.0}
    sure = paired_bootstrap(np.ones(9, bool), np.zeros(9, bool), samples=999)
    assert sure == {"difference": 1.0, "interval_95": [1.0, 1.0], "p": 2 / 1000}
    there, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert there["difference"] == -back["difference"] == 0.15
    assert there["p"] == pytest.approx(back["p"], abs=0.003)


def test_bootstrap_covers():
    """About 95 of 100 intervals hold the true difference."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        easy = rng.random(300)  # both networks find the same images hard
        a, b = easy + 0.2 * rng.standard_normal(300) < 0.75, easy + 0.2 * rng.standard_normal(300) < 0.75
        low, high = paired_bootstrap(a, b, samples=500)["interval_95"]
        inside += low <= 0 <= high
    assert 0.92 < inside / 400 < 0.98


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((2, 3), (2, 4)), ((0,), (0,)), ((1, 2, 3), (1, 2, 3))])
def test_bootstrap_wants_the_same_images(shapes):
    with pytest.raises(ValueError, match="the same images"):
        paired_bootstrap(*(np.ones(s, bool) for s in shapes))


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.3]) == [0.3]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=100)
def test_holm_rejects_as_the_stepwise_rule_does(p_values):
    """Holm's own wording: go up the sorted p values, stop at the first that is not below level / (tests left)."""
    adjusted, left = holm(p_values), len(p_values)
    for i in sorted(range(len(p_values)), key=p_values.__getitem__):
        if left * p_values[i] >= 0.05:
            break
        assert adjusted[i] < 0.05
        left -= 1
    assert sum(p < 0.05 for p in adjusted) == len(p_values) - left
