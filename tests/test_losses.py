"""Losses against formulas over angles in float64, finite differences, and the published implementation of ArcFace."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from formulas import array, finite_difference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ArcFaceLoss
from scipy.special import logsumexp

from mifad_lite import AngularDistanceLoss, CenterLoss, CosineClassifier, IslandLoss
from mifad_lite.losses import add_margin

MARGINS = st.floats(0, 1.57)


def angular_formula(cosines, labels, s, m):
    """The paper's equation, angles by arc cosine; only where theta + m <= pi."""
    rows = np.arange(len(labels))
    theta = np.arccos(cosines)
    assert (theta[rows, labels] + m <= np.pi).all()
    logits = s * np.cos(theta)
    logits[rows, labels] = s * np.cos(theta[rows, labels] + m)
    return (logsumexp(logits, axis=1) - logits[rows, labels]).mean()


def cosines_and_labels(m, n=64, classes=7, seed=0):
    """Random cosines; those of the true class over the whole range where theta + m <= pi, both ends included."""
    rng = np.random.default_rng(seed)
    cosines, labels = rng.uniform(-1, 1, (n, classes)), rng.integers(0, classes, n)
    cosines[np.arange(n), labels] = np.cos(np.linspace(0, np.pi - m - 1e-2, n))
    return cosines, labels


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# --- the angular distance loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("m", [0, 0.1, 0.5, 1.5])
@pytest.mark.parametrize("s", [1, 16, 64])
def test_angular_equals_the_formula_over_angles(s, m, dtype):
    cosines, labels = cosines_and_labels(m)
    given_cosines = torch.from_numpy(cosines).to(dtype)
    loss = AngularDistanceLoss(s, m)(given_cosines, torch.from_numpy(labels))
    assert loss.dtype == torch.float32
    rounded = array(given_cosines)
    if m == 0:  # theta + 0 <= pi holds for every cosine
        rounded = rounded.clip(-1, 1)
    assert loss.item() == pytest.approx(angular_formula(rounded, labels, s, m), rel=1e-5)


@pytest.mark.parametrize(("s", "m"), [(1, 0.5), (16, 0.2), (30, 1.0)])
def test_angular_gradient_by_finite_differences(s, m):
    rng = np.random.default_rng(1)
    cosines, labels = np.cos(rng.uniform(0.2, 2, (6, 7))), rng.integers(0, 7, 6)
    leaf = torch.tensor(cosines, dtype=torch.float32, requires_grad=True)
    AngularDistanceLoss(s, m)(leaf, torch.from_numpy(labels)).backward()
    expected = finite_difference(lambda c: angular_formula(c, labels, s, m), cosines)
    np.testing.assert_allclose(array(leaf.grad), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("s", "m"), [(16, 0.2), (30, 0.5)])
def test_classifier_and_loss_equal_the_published_arcface(s, m):
    """Value and gradients of embedding and class weights, against pytorch-metric-learning."""
    torch.manual_seed(0)
    classifier, x, labels = CosineClassifier(16, 7), torch.randn(32, 16), torch.arange(32) % 7
    theirs = ArcFaceLoss(7, 16, margin=math.degrees(m), scale=s)
    with torch.no_grad():
        theirs.W.copy_(classifier.weight.T)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = AngularDistanceLoss(s, m)(classifier(a), labels)
    reference = theirs(b, labels)
    assert (classifier(x).gather(1, labels[:, None]) > -math.cos(m)).all()  # past pi the two continue differently
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    ours.backward()
    reference.backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classifier.weight.grad, theirs.W.grad.T, rtol=1e-4, atol=1e-5)


@given(MARGINS)
@example(0.0)
@settings(deadline=None, max_examples=50)
def test_true_logit_falls_over_all_angles(m):
    """cos(theta + m) alone would rise again past theta + m = pi. The slope keeps its sign, at 0 and pi too."""
    cosines = torch.linspace(0, math.pi, 2001, dtype=torch.float64).cos().float().requires_grad_()
    logit = add_margin(cosines, m)
    assert (logit.diff() <= 1e-6).all()  # rounding of float32
    assert (logit[::50].diff() < 0).all()
    (slope,) = torch.autograd.grad(logit.sum(), cosines)
    assert slope.isfinite().all()
    sin_squared = 1 - cosines.detach().double() ** 2
    assert (slope * sin_squared >= -3e-7).all()  # sin(theta + m) sin(theta), 0 at the join but for rounding
    assert slope[0] > 0
    assert slope[-1] > 0 or 0 < m < 1e-3  # so small a margin puts the join a rounding away from pi


@given(MARGINS, st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.sampled_from([torch.float64, torch.float32]))
@example(0.3, [-math.cos(0.3), 1.0, -1.0], torch.float64)
@settings(deadline=None, max_examples=100)
def test_a_margin_that_is_a_tensor_counts_like_a_number(m, cosines, dtype):
    """Value and slope. In float32 the tensor's own cosine is rounded, and so is where the two branches join."""
    near = 1e-12 if dtype == torch.float64 else 1e-6
    a, b = (torch.tensor(cosines, dtype=dtype, requires_grad=True) for _ in range(2))
    ours, theirs = add_margin(a, torch.tensor(m, dtype=dtype)), add_margin(b, m)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=near, atol=near)
    if dtype == torch.float64:
        (first,), (second,) = torch.autograd.grad(ours.sum(), a), torch.autograd.grad(theirs.sum(), b)
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ramp", [0.0, 0.25, 1.0])
def test_a_ramp_that_is_a_tensor_counts_like_a_number(ramp):
    cosines, labels = cosines_and_labels(0.8)
    ours = AngularDistanceLoss(16, 0.8)(torch.from_numpy(cosines), torch.from_numpy(labels), torch.tensor(ramp))
    assert ours.item() == pytest.approx(angular_formula(cosines, labels, 16, ramp * 0.8), rel=1e-5)


@given(MARGINS, st.lists(st.floats(0, math.pi), min_size=2, max_size=2))
@settings(deadline=None, max_examples=50)
def test_loss_rises_with_the_angle(m, angles):
    near, far = sorted(angles)
    cosines = torch.full((2, 7), 0.1)
    cosines[:, 3] = torch.tensor([near, far], dtype=torch.float64).cos()
    loss = AngularDistanceLoss(16, m)
    first, second = (loss(cosines[i : i + 1], torch.tensor([3])).item() for i in (0, 1))
    assert second >= first - 1e-4


@pytest.mark.parametrize("m", [0.05, 0.2, 0.5, 1.0, 1.5])
def test_joins_in_value_and_slope_where_theta_plus_m_is_pi(m):
    step = 1e-4
    theta = torch.tensor([-2, -1, 0, 1, 2], dtype=torch.float64) * step + math.pi - m
    logit = add_margin(theta.cos(), m)
    assert logit[2].item() == pytest.approx(-1, abs=1e-12)
    slopes = logit.diff() / step
    assert slopes.abs().max() < 2 * step  # cos is flat at pi, from both sides
    assert (slopes < 0).all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("ramp", [0.0, 1.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_at_the_ends_of_the_cosine(sign, ramp, autocast):
    """Embeddings along their class direction and against it: where the arc cosine has an infinite slope."""
    torch.manual_seed(0)
    classifier = CosineClassifier(32, 7)
    x = (sign * classifier.weight.detach().repeat(3, 1)).to(torch.bfloat16 if autocast else torch.float32)
    x.requires_grad_()
    labels = torch.arange(21) % 7
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        cosines = classifier(x)
        loss = AngularDistanceLoss(64, 0.5)(cosines, labels, ramp)
    assert cosines.gather(1, labels[:, None]).detach().mul(sign).min() > 0.9999
    loss.backward()
    assert loss.dtype == torch.float32
    for t in (loss, x.grad, classifier.weight.grad):
        assert t.isfinite().all()


@pytest.mark.parametrize("m", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_at_cosines_of_exactly_one_and_a_rounding_beyond(m, dtype):
    """theta = 0: the true logit is s cos(m). A cosine that rounding put above 1 counts as 1."""
    for beyond in (0, 1e-6):
        cosines = torch.full((1, 7), 0.25, dtype=dtype)
        cosines[0, 2] = 1 + beyond
        leaf = cosines.requires_grad_()
        loss = AngularDistanceLoss(8, m)(leaf, torch.tensor([2]))
        expected = math.log1p(6 * math.exp(8 * 0.25 - 8 * math.cos(m)))
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        loss.backward()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(("m", "ramp"), [(0.0, 1.0), (0.5, 0.0)])
def test_without_margin_it_is_cross_entropy(m, ramp):
    """On s cos(theta): value and gradient, at cosines of exactly -1, 0 and 1 too."""
    torch.manual_seed(0)
    cosines, labels = torch.rand(9, 7) * 2 - 1, torch.arange(9) % 7
    cosines[torch.arange(3), labels[:3]] = torch.tensor([-1.0, 0.0, 1.0])
    a, b = cosines.clone().requires_grad_(), cosines.clone().requires_grad_()
    ours, theirs = AngularDistanceLoss(16, m)(a, labels, ramp), F.cross_entropy(16 * b, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ramp", [0.0, 0.25, 0.5, 1.0])
def test_ramp_scales_the_margin(ramp):
    cosines, labels = cosines_and_labels(0.8)
    loss = AngularDistanceLoss(16, 0.8)(torch.from_numpy(cosines), torch.from_numpy(labels), ramp)
    assert loss.item() == pytest.approx(angular_formula(cosines, labels, 16, 0.8 * ramp), rel=1e-5)


def test_margin_touches_the_true_class_alone():
    cosines, labels = cosines_and_labels(0.5)
    logits = array(AngularDistanceLoss(16, 0.5).logits(torch.from_numpy(cosines), torch.from_numpy(labels)))
    true = np.eye(7, dtype=bool)[labels]
    np.testing.assert_allclose(logits[~true], 16 * cosines[~true], rtol=1e-6)
    assert (logits[true] < 16 * cosines[true] - 1e-3).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"scale": s}, f"scale s = {s} must be positive") for s in (0, -1, math.nan)]
    + [({"margin": m}, f"margin m = {m} must lie in") for m in (-0.1, math.pi / 2, math.nan)],
)
def test_scale_and_margin_out_of_range(arguments, says):
    with pytest.raises(ValueError, match=says):
        AngularDistanceLoss(**arguments)


# --- the cosine classifier -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
def test_cosines_in_float32_whatever_autocast_says(autocast):
    torch.manual_seed(0)
    classifier, x = CosineClassifier(16, 7), torch.randn(5, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        cosines = classifier(x.bfloat16() if autocast else x)
    assert cosines.dtype == torch.float32
    seen = array(x.bfloat16() if autocast else x)
    np.testing.assert_allclose(array(cosines), unit(seen) @ unit(array(classifier.weight)).T, atol=1e-6)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=25)
def test_cosines_forget_both_lengths(a, b):
    torch.manual_seed(0)
    classifier, x = CosineClassifier(16, 7), torch.randn(5, 16)
    before = classifier(x)
    classifier.weight.data *= b
    torch.testing.assert_close(classifier(a * x), before, rtol=1e-5, atol=1e-6)


def test_class_weights_start_with_unit_variance():
    """Adam's step is absolute: weights drawn at 0.01 turn a hundred times too far."""
    torch.manual_seed(0)
    weight = CosineClassifier(512, 64).weight
    assert weight.std().item() == pytest.approx(1, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=0.02)


# --- the rivals ------------------------------------------------------------------------------------------------------


def center_formula(x, centers, labels):
    return sum(((x[i] - centers[y]) ** 2).sum() for i, y in enumerate(labels)) / (2 * len(labels))


def island_formula(x, centers, labels, weight):
    pairs = sum(
        centers[k] @ centers[j] / np.linalg.norm(centers[k]) / np.linalg.norm(centers[j]) + 1
        for k in range(len(centers))
        for j in range(len(centers))
        if j != k
    )
    return center_formula(x, centers, labels) + weight * pairs


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("weight", [None, 0.0, 0.5, 10.0], ids="pairwise_weight={}".format)
def test_center_and_island_equal_their_formulas(weight, autocast):
    """Value, and gradients of embedding and centers; class 4 is absent. In float32 under autocast too."""
    torch.manual_seed(0)
    loss = CenterLoss(5, 6) if weight is None else IslandLoss(5, 6, weight)
    labels = np.array([0, 1, 1, 3, 2, 0, 1])
    x = torch.randn(7, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = loss(x, torch.from_numpy(labels))
    ours.backward()

    def formula(x, centers):
        return center_formula(x, centers, labels) if weight is None else island_formula(x, centers, labels, weight)

    embedding, centers = array(x), array(loss.centers)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(formula(embedding, centers), rel=1e-5)
    expected = finite_difference(lambda e: formula(e, centers), embedding)
    np.testing.assert_allclose(array(x.grad), expected, rtol=1e-4, atol=1e-5)
    expected = finite_difference(lambda c: formula(embedding, c), centers)
    np.testing.assert_allclose(array(loss.centers.grad), expected, rtol=1e-4, atol=1e-4)


def test_center_loss_of_a_bf16_embedding_is_float32():
    torch.manual_seed(0)
    loss, labels = CenterLoss(3, 8), torch.tensor([0, 1, 2, 2])
    x = torch.randn(4, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours = loss(x, labels)
    assert ours.item() == pytest.approx(center_formula(array(x), array(loss.centers), labels.tolist()), rel=1e-5)
