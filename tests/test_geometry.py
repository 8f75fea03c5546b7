"""Angles, logits, gradients and boundaries of Figure 8, against vectors, finite differences and the torch loss."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from formulas import array, finite_difference
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from mifad_lite import AngularDistanceLoss, geometry
from mifad_lite.losses import add_margin

ANGLES, MARGINS = st.floats(0, math.pi), st.floats(0, 1.5)
quick = settings(deadline=None, max_examples=100)


def directions(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


# --- psi -------------------------------------------------------------------------------------------------------------


@given(ANGLES, MARGINS)
@quick
def test_psi_is_what_the_torch_loss_computes(theta, m):
    ours, theirs = geometry.psi(theta, m), add_margin(torch.tensor(math.cos(theta), dtype=torch.float64), m)
    assert ours == pytest.approx(theirs.item(), abs=4e-4)  # sin(theta) below the floor is a straight line there
    if math.sin(theta) > 1e-3:
        assert ours == pytest.approx(theirs.item(), abs=1e-9)


@given(MARGINS)
@example(0.0)
@quick
def test_psi_falls_all_the_way_and_its_slope_is_its_slope(m):
    theta = np.linspace(0, math.pi, 1001)
    assert (np.diff(geometry.psi(theta, m)) < 1e-12).all()
    inner = theta[1:-1]
    inner = inner[abs(inner + m - math.pi) > 1e-3]
    slope = (geometry.psi(inner + 1e-6, m) - geometry.psi(inner - 1e-6, m)) / 2e-6
    np.testing.assert_allclose(geometry.psi_slope(inner, m), slope, atol=1e-8)


@pytest.mark.parametrize("m", [0.1, 0.5, 1.5])
def test_psi_joins_where_theta_plus_m_is_pi(m):
    theta = math.pi - m + np.array([-1e-7, 0, 1e-7])
    np.testing.assert_allclose(geometry.psi(theta, m), -1, atol=1e-12)
    np.testing.assert_allclose(geometry.psi_slope(theta, m), 0, atol=2e-7)
    assert geometry.psi(math.pi, m) == pytest.approx(-2 + math.cos(m))


# --- angles ----------------------------------------------------------------------------------------------------------


def test_angle_between_is_the_arc_cosine_and_exact_where_that_is_not():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(20, 5)), rng.normal(size=(7, 5))
    cosines = array(F.normalize(torch.from_numpy(x)) @ F.normalize(torch.from_numpy(w)).T)
    np.testing.assert_allclose(geometry.angle_between(x, w), np.arccos(cosines), atol=1e-12)
    tiny = geometry.angle_between([[1, 0]], [[3, 3e-9], [-2, 0]])
    np.testing.assert_allclose(tiny, [[1e-9, math.pi]], rtol=1e-9)


@given(st.floats(-20, 20), st.lists(st.floats(-10, 10), min_size=3, max_size=3))
@quick
def test_on_circle_is_the_angle_between_directions(phi, angles):
    angles = np.array(angles)
    between = geometry.angle_between(directions(np.array([phi])), directions(angles))
    np.testing.assert_allclose(geometry.on_circle([phi], angles), between, atol=1e-7)
    assert -math.pi <= geometry.wrap(phi) < math.pi
    assert math.cos(geometry.wrap(phi)) == pytest.approx(math.cos(phi), abs=1e-9)


# --- logits, loss, gradient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "m"), [(1, 0.0), (16, 0.2), (16, 1.0), (30, 0.5), (64, 1.5)])
def test_loss_and_gradient_are_those_of_the_torch_loss(s, m):
    """Angles over the whole range, past theta + m = pi too; the gradient by the chain rule through cos(theta)."""
    theta = np.random.default_rng(0).uniform(0.05, math.pi - 0.05, (64, 7))
    leaf = torch.from_numpy(theta).requires_grad_()
    module = AngularDistanceLoss(s, m)
    for true in range(7):
        labels = torch.full((64,), true)
        ours = geometry.loss(geometry.logits(theta, true, s, m=m), true)
        theirs = module(leaf.cos(), labels)
        assert ours.mean() == pytest.approx(theirs.item(), rel=1e-5)
        (expected,) = torch.autograd.grad(64 * theirs, leaf)
        np.testing.assert_allclose(geometry.gradient(theta, true, s, m=m), expected, rtol=1e-3, atol=1e-4 * s)


def test_softmax_with_norms_is_the_dot_product():
    rng = np.random.default_rng(1)
    x, w, b = rng.normal(size=(9, 4)), rng.normal(size=(5, 4)), rng.normal(size=5)
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)
    z = geometry.logits(geometry.angle_between(x, w), 2, s=lengths, bias=b)
    np.testing.assert_allclose(z, x @ w.T + b, atol=1e-12)
    theirs = F.cross_entropy(torch.from_numpy(x @ w.T + b), torch.full((9,), 2), reduction="none")
    np.testing.assert_allclose(geometry.loss(z, 2), theirs, atol=1e-12)
    np.testing.assert_allclose(geometry.probabilities(z), array(torch.from_numpy(z).softmax(1)), atol=1e-12)


RULES = [
    {"s": np.array([2.0, 0.7, 1.1]), "bias": np.array([0.3, -0.2, 0.0])},
    {"s": 8.0},
    {"s": 8.0, "m": 0.4},
    {"s": 8.0, "drop": 0.35},
    {"s": 8.0, "m": 0.3, "drop": 0.2},
]


@pytest.mark.parametrize("rule", RULES)
@given(st.lists(st.floats(0.01, 3.13), min_size=3, max_size=3), st.integers(0, 2))
@quick
def test_gradient_by_finite_differences(rule, theta, true):
    theta = np.array(theta)
    assume(abs(theta[true] + rule.get("m", 0) - math.pi) > 1e-4)
    g = geometry.gradient(theta, true, **rule)
    expected = finite_difference(lambda t: geometry.loss(geometry.logits(t, true, **rule), true), theta)
    np.testing.assert_allclose(g, expected, atol=1e-6)
    assert g[true] >= 0
    assert (np.delete(g, true) <= 0).all()


@pytest.mark.parametrize("rule", RULES)
@given(st.floats(-3.1, 3.1))
@quick
def test_gradient_along_the_circle_by_finite_differences(rule, phi):
    angles = np.array([0.4, 2.0, -1.3])
    theta = geometry.on_circle(phi, angles)
    assume(np.minimum(theta, math.pi - theta).min() > 1e-3)
    assume(abs(theta[1] + rule.get("m", 0) - math.pi) > 1e-4)

    def value(at):
        return geometry.loss(geometry.logits(geometry.on_circle(at, angles), 1, **rule), 1)

    slope = geometry.gradient_on_circle(phi, angles, 1, **rule)
    assert slope == pytest.approx((value(phi + 1e-6) - value(phi - 1e-6)) / 2e-6, abs=1e-6)


def test_huge_scales_do_not_overflow():
    z = geometry.logits([2.0, 0.1], 0, s=1e5)
    assert geometry.loss(z, 0) == pytest.approx(z[1] - z[0])
    assert np.isfinite(geometry.gradient([2.0, 0.1], 0, s=1e5)).all()


# --- regions and bands in the plane ----------------------------------------------------------------------------------


def lead(phi, angles, own, rule):
    """How far the own logit lies above the rival's."""
    z = geometry.logits(geometry.on_circle(phi, np.array(angles)), own, **rule)
    return z[..., own] - z[..., 1 - own]


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("angles", [(0.3, 1.6), (2.8, -2.6), (-1.0, 2.0), (0.0, 0.2)])
@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"s": np.array([1.5, 0.6])},
        {"s": np.array([1.5, 0.6]), "bias": np.array([0.2, -0.3])},
        {"s": np.array([1.0, 1.0]), "bias": np.array([-9.0, 9.0])},
        {"s": 16.0, "m": 0.15},
        {"s": 16.0, "m": 0.5},
        {"s": 16.0, "m": 1.4},
        {"s": 16.0, "drop": 0.02},
        {"s": 16.0, "drop": 0.35},
        {"s": 16.0, "drop": 1.9},
    ],
)
def test_region_is_where_the_own_logit_leads(rule, angles, own):
    arc = geometry.region(angles, own, **rule)
    phi = np.linspace(-math.pi, math.pi, 3001)
    if arc is None:
        inside = np.zeros(len(phi), bool)
    else:
        inside = np.abs(geometry.wrap(phi - sum(arc) / 2)) < (arc[1] - arc[0]) / 2
    leads = lead(phi, angles, own, rule)
    clear = np.abs(leads) > 1e-2
    assert (inside == (leads > 0))[clear].all()
    if arc is not None and arc[1] - arc[0] < 2 * math.pi:
        np.testing.assert_allclose(lead(np.array(arc), angles, own, rule), 0, atol=1e-10)


def test_region_of_equal_directions_is_decided_by_the_bias():
    assert geometry.region((1, 1), 0, bias=np.array([1, 0])) == pytest.approx((-math.pi, math.pi))
    assert geometry.region((1, 1), 0, bias=np.array([0, 1])) is None
    assert geometry.region((1, 1), 0) is None


@pytest.mark.parametrize("rule", [{"s": (1, 2)}, {"bias": (0, 1)}, {"drop": 0.1}])
def test_region_with_a_margin_needs_normalised_classes(rule):
    with pytest.raises(ValueError, match="needs one scale, no bias and no cosine margin"):
        geometry.region((0, 1), 0, m=0.2, **rule)


@given(st.floats(-3, 3), st.floats(0.05, 3.1), MARGINS)
@quick
def test_the_band_of_the_angular_margin_is_m_wide_and_the_bisector_its_middle(start, gap, m):
    assume(abs(m - gap) > 1e-6)
    arcs = [geometry.region((start, start + gap), own, s=16, m=m) for own in (0, 1)]
    if m > gap:
        assert arcs == [None, None]
        assert np.isnan(geometry.band_width(gap, m))
        return
    ends = [geometry.wrap(arcs[0][1] - start), geometry.wrap(arcs[1][0] - start)]
    np.testing.assert_allclose(ends, [(gap - m) / 2, (gap + m) / 2], atol=1e-9)
    assert geometry.band_width(gap, m) == pytest.approx(m)


@given(st.floats(0.05, 3.1), MARGINS, st.floats(0, 1))
@example(1.0, 0.0, 0.3)
@quick
def test_band_width_of_combined_margins_is_the_root_of_the_equation(gap, m, drop):
    """Class 1's boundary: cos(theta + m) - drop = cos(gap - theta), for theta in [0, gap]."""

    def difference(theta):
        return geometry.psi(theta, m) - drop - math.cos(gap - theta)

    width = geometry.band_width(gap, m, drop)
    assume(abs(difference(0)) > 1e-6)
    if difference(0) < 0:  # even on its own direction the class loses
        assert np.isnan(width)
    else:
        assert (gap - width) / 2 == pytest.approx(brentq(difference, 0, gap, xtol=1e-14), abs=1e-6)
        if not m and drop:
            arc = geometry.region((0, gap), 0, drop=drop)
            assert arc[1] == pytest.approx((gap - width) / 2, abs=1e-6)


# --- the sphere, the simplex, the scale ------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [{}, {"m": 0.2}, {"m": 0.9}, {"drop": 0.3}, {"drop": 0.9}])
def test_boundary_on_the_sphere_satisfies_its_equation(rule):
    own, rival = np.array([2.0, 0.3, -0.4]), np.array([0.1, 0.5, 0.9])
    points = geometry.sphere_boundary(own, rival, **rule, n=50)
    assert points.shape == (100, 3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-9)
    theta = geometry.angle_between(points, np.stack([own, rival]))
    z = geometry.logits(theta, 0, **rule)
    np.testing.assert_allclose(z[:, 0], z[:, 1], atol=1e-9)
    np.testing.assert_allclose(points[0], points[-1], atol=1e-6)  # the loop is closed, and is not a single point
    assert np.ptp(points, axis=0).max() > 0.5


def test_boundary_on_the_sphere_that_is_not_there():
    assert geometry.sphere_boundary([1, 0, 0], [0.8, 0.6, 0], m=1.0).shape == (0, 3)
    for rival in ([2, 0, 0], [-1, 0, 0]):
        with pytest.raises(ValueError, match="neither equal nor opposite"):
            geometry.sphere_boundary([1, 0, 0], rival)


@pytest.mark.parametrize("classes", [2, 3, 7, 100])
def test_simplex_gap_is_kept_by_all_pairs(classes):
    corners = np.eye(classes) - 1 / classes
    angles = geometry.angle_between(corners, corners)[~np.eye(classes, dtype=bool)]
    np.testing.assert_allclose(angles, geometry.simplex_gap(classes), atol=1e-9)


@pytest.mark.parametrize("classes", [2, 7, 50])
@pytest.mark.parametrize(("m", "drop"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.35)])
def test_loss_floor_is_the_loss_on_the_corner_of_the_simplex(classes, m, drop):
    corners = np.eye(classes) - 1 / classes
    theta = geometry.angle_between(corners[1:2], corners)[0]
    on_it = geometry.loss(geometry.logits(theta, 1, 8.0, m=m, drop=drop), 1)
    assert geometry.loss_floor(classes, 8.0, m, drop) == pytest.approx(on_it)


@given(st.integers(2, 1000), st.floats(0.001, 0.999))
@quick
def test_scale_for_gives_the_probability(classes, share):
    p = 1 / classes + (1 - 1 / classes) * share  # above chance
    s = geometry.scale_for(classes, p)
    assert s > 0
    assert math.exp(-geometry.loss_floor(classes, s)) == pytest.approx(p)
