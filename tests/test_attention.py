"""Attention: the formulas of Figures 4 and 5 in numpy, gradients by finite differences, and no HW x HW matrix."""

import numpy as np
import pytest
import torch
from formulas import array, batch_norm, conv2d, scramble, softmax
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mifad_lite import AttentionModule, ChannelAttention, SpatialAttention
from mifad_lite.attention import rank_one_attention, tabulated_attention, tabulation, tabulation_error_bound


def features(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def prelu(x, act):
    return np.where(x > 0, x, array(act.weight) * x)


def channel_formula(block, x, training):
    pooled = x.mean((2, 3), keepdims=True) + x.max((2, 3), keepdims=True)  # (B, C, 1, 1)
    v = batch_norm(prelu(conv2d(pooled, block.conv), block.act), block.norm, training)[:, :, 0, 0]
    weights = softmax(np.einsum("bi,bj->bij", v, v))
    return array(block.alpha) * np.einsum("bij,bjhw->bihw", weights, x) + x, weights


def spatial_formula(block, x, training):
    b, c, h, w = x.shape
    pooled = np.stack([x.mean(1), x.max(1)], axis=1)  # (B, 2, H, W)
    v = batch_norm(prelu(conv2d(pooled, block.conv), block.act), block.norm, training).reshape(b, h * w)
    weights = softmax(np.einsum("bi,bj->bij", v, v))
    mixed = np.einsum("bij,bcj->bci", weights, x.reshape(b, c, h * w)).reshape(x.shape)  # F A_s^T
    return array(block.beta) * mixed + x, weights


BLOCKS = [
    pytest.param(lambda: ChannelAttention(6), channel_formula, 6, id="channel"),
    pytest.param(SpatialAttention, spatial_formula, 20, id="spatial"),
]


# --- both blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "formula", "size"), BLOCKS)
def test_output_and_map_equal_the_formula(make, formula, size, training):
    block = scramble(make()).double().train(training)
    x = features(3, 6, 4, 5)
    expected, weights = formula(block, x.numpy(), training)
    out, attention = block(x, return_map=True)
    assert attention.shape == (3, size, size)
    np.testing.assert_allclose(array(out), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(array(block(x)), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(array(attention), weights, rtol=1e-9)
    np.testing.assert_allclose(array(attention).sum(2), 1, rtol=1e-12)


@pytest.mark.parametrize(("make", "formula", "size"), BLOCKS)
def test_logits_have_rank_one(make, formula, size):
    """log A is v_i v_j less a constant of its row. Less the row's mean it is v_i (v_j - mean v): rank one."""
    _, attention = scramble(make()).double()(features(3, 6, 4, 5), return_map=True)
    logits = np.log(array(attention))
    singular = np.linalg.svd(logits - logits.mean(2, keepdims=True), compute_uv=False)
    assert (singular[:, 0] > 1e-3).all()
    assert (singular[:, 1] < 1e-10 * singular[:, 0]).all()


@pytest.mark.parametrize("kind", ["both", "channel", "spatial", "none"])
def test_starts_as_the_identity_and_can_leave_it(kind):
    """alpha = beta = 0: exactly the input, and a gradient that moves alpha and beta."""
    module = AttentionModule(6, kind)
    x = features(4, 6, 5, 5, dtype=torch.float32)
    out = module(x)
    assert torch.equal(out, x)
    gates = {n: p for n, p in module.named_parameters() if n.endswith(("alpha", "beta"))}
    assert len(gates) == {"both": 2, "channel": 1, "spatial": 1, "none": 0}[kind]
    if gates:
        (out * features(*x.shape, dtype=torch.float32, seed=2)).sum().backward()
    for p in gates.values():
        assert p.item() == 0
        assert p.grad.abs() > 1e-3


@pytest.mark.parametrize("make", [lambda: ChannelAttention(6), SpatialAttention], ids=["channel", "spatial"])
def test_gradients_by_finite_differences(make):
    block = scramble(make()).double()
    names, values = zip(*block.named_parameters(), strict=True)

    def call(x, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    block.norm.track_running_stats = False  # gradcheck wants a function without memory
    block.norm.running_mean = block.norm.running_var = None
    assert torch.autograd.gradcheck(call, (features(2, 6, 3, 4).requires_grad_(), *values))


@pytest.mark.parametrize("make", [lambda: ChannelAttention(6), SpatialAttention], ids=["channel", "spatial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trains_under_bf16_autocast(make, dtype):
    """Used alone, as in a notebook: whichever type the input has, gradients come back, near those of float32."""
    block = scramble(make())
    x = features(4, 6, 5, 5, dtype=torch.float32).to(dtype)
    weight = features(4, 6, 5, 5, dtype=torch.float32, seed=2)
    gradients = []
    for bf16 in (False, True):
        leaf = (x.clone() if bf16 else x.float().clone()).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = block(leaf)
        (out.float() * weight).sum().backward()
        gradients.append(leaf.grad.float())
    assert torch.nn.functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.99


@pytest.mark.parametrize("make", [lambda: ChannelAttention(6), SpatialAttention], ids=["channel", "spatial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_way_back_may_stand_inside_autocast(make, dtype):
    """Where loss.backward() is called makes no difference."""
    block, x = scramble(make()), features(4, 6, 5, 5, dtype=torch.float32).to(dtype)
    gradients = []
    for inside in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = block(leaf).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append(leaf.grad.float().flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


def test_functional_transforms_take_the_plain_formula():
    """Not the row blocks, which are an autograd function without `setup_context`: the docstring says so."""
    block, x = scramble(SpatialAttention()).eval(), features(2, 4, 5, 5, dtype=torch.float32)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(block(leaf).square().sum(), leaf)
    found = torch.func.grad(lambda x: block(x, return_map=True)[0].square().sum())(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: block(x).square().sum())(x)


# --- spatial attention without the matrix ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", [5, 12, 15])  # 25, 144 and 225 positions
def test_without_the_map_equals_with_the_map_in_float32(side):
    """To 1e-5, the gradients of the input and of every parameter included."""
    block = scramble(SpatialAttention())
    x, weight = (features(3, 8, side, side, dtype=torch.float32, seed=s) for s in (1, 2))
    results = []
    for ask in (False, True):
        leaf = x.clone().requires_grad_()
        out = block(leaf, return_map=True)[0] if ask else block(leaf)
        loss = (out * weight).sum() / side  # gradients of the order of 1
        results.append([out, *torch.autograd.grad(loss, [leaf, *block.parameters()])])
    for plain, with_map in zip(*results, strict=True):
        torch.testing.assert_close(plain, with_map, rtol=1e-5, atol=1e-5)


class Elsewhere(torch.Tensor):
    """A CPU tensor that says it lives elsewhere: it takes the branch of the GPU, computed on the CPU."""

    device = property(lambda self: torch.device("cuda"))


@pytest.mark.parametrize("positions", [1, 7, 48, 100])  # less than a block of rows, one block, no multiple of a block
@pytest.mark.parametrize("fused", [False, True], ids=["row blocks", "fused"])
def test_rank_one_attention_equals_softmax(positions, fused):
    def call(v, values):
        if fused:
            v, values = v.as_subclass(Elsewhere), values.as_subclass(Elsewhere)
        return rank_one_attention(v, values).as_subclass(torch.Tensor)

    v, values = features(2, positions).requires_grad_(), features(2, positions, 3, seed=2).requires_grad_()
    logits = np.einsum("bi,bj->bij", v.detach().numpy(), v.detach().numpy())
    np.testing.assert_allclose(array(call(v, values)), softmax(logits) @ array(values), rtol=1e-10, atol=1e-13)
    assert torch.autograd.gradcheck(call, (v, values), fast_mode=positions > 48)


def test_the_fused_branch_is_the_fused_call(monkeypatch):
    """The test above would be empty if `Elsewhere` went through the row blocks."""
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    v, values = features(2, 9), features(2, 9, 3)
    rank_one_attention(v, values)
    assert not calls
    rank_one_attention(v.as_subclass(Elsewhere), values.as_subclass(Elsewhere))
    assert calls


def test_rank_one_attention_with_huge_logits():
    """Logits of a million overflow a bare exponential. A row then picks the place of the largest logit."""
    v = torch.tensor([[1e3, -1e3, 1.0]], requires_grad=True)
    values = torch.tensor([[[1.0], [2.0], [3.0]]], requires_grad=True)
    out = rank_one_attention(v, values)
    assert out.flatten().tolist() == [1, 2, 1]
    out.sum().backward()
    assert v.grad.isfinite().all()
    assert values.grad.flatten().tolist() == [2, 1, 0]


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made, backward pass included."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *made])
        return out


@pytest.mark.parametrize("ask", [False, True])
def test_training_never_builds_the_square_matrix(ask):
    block, x = scramble(SpatialAttention()), features(2, 4, 24, 24, dtype=torch.float32).requires_grad_()
    square = 2 * (24 * 24) ** 2
    with Largest() as largest:
        out = block(x, return_map=True)[0] if ask else block(x)
        out.square().sum().backward()
    assert (largest.elements >= square) if ask else (largest.elements <= square / 8)


# --- spatial attention from a table ----------------------------------------------------------------------------------


def plain(v, values):
    return torch.softmax(v[:, :, None] * v[:, None, :], dim=-1) @ values


def plain_in_numpy(v, values):
    return softmax(np.einsum("bi,bj->bij", array(v), array(v))) @ array(values)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    positions=st.integers(1, 60),
    knots=st.integers(2, 40),
    reach=st.floats(0, 6),
    middle=st.floats(-3, 3),
    power=st.integers(1, 5),
)
def test_table_stays_inside_its_bound(seed, positions, knots, reach, middle, power):
    """For v spread evenly (power 1) up to bunched in the middle (5), anywhere on the line."""
    generator = torch.Generator().manual_seed(seed)
    v = middle + reach * (2 * torch.rand(2, positions, generator=generator, dtype=torch.float64) - 1) ** power
    values = torch.randn(2, positions, 3, generator=generator, dtype=torch.float64)
    off = np.abs(array(tabulated_attention(v, values, knots)) - plain_in_numpy(v, values))
    assert (off.max((1, 2)) <= array(tabulation_error_bound(v, values, knots)) + 1e-12).all()


def fourth_derivative(t, v, f):
    """Of phi(t) = sum_j softmax(t v)_j f_j, by four rounds of autograd."""
    t = torch.tensor(t, dtype=v.dtype, requires_grad=True)
    phi = torch.softmax(t * v, 0) @ f
    for _ in range(4):
        (phi,) = torch.autograd.grad(phi, t, create_graph=True)
    return phi.detach()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), positions=st.integers(2, 6), reach=st.floats(0.5, 4), t=st.floats(-4, 4))
def test_the_bound_rests_on_the_fourth_derivative(seed, positions, reach, t):
    v, f = reach * torch.rand(2, positions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    largest = 384 * tabulation_error_bound(v[None], f[None, :, None], 2) / (v.max() - v.min()) ** 4
    assert fourth_derivative(t, v, f).abs() <= largest[0] + 1e-13  # of rounding, where all v are nearly equal


@pytest.mark.parametrize("knots", [2, 5, 16])
def test_the_two_factors_of_a_table(knots):
    """Between two knots the cubic of SciPy; elsewhere nothing. At the smallest and the largest v the rows are exact."""
    v = features(2, 40)
    basis, rows = tabulation(v, knots)
    assert (basis != 0).sum(-1).max() <= 4
    assert torch.allclose(basis[..., :knots].sum(-1), torch.ones(2, 40).double()), "a constant curve stays one"
    exact, found = plain_in_numpy(v, torch.eye(40).double().expand(2, -1, -1)), array(basis @ rows)
    for one, x, b, r in zip(found, array(v), exact, array(rows), strict=True):
        grid = np.linspace(x.min(), x.max(), knots)
        curve = np.exp(grid[:, None] * x)
        curve /= curve.sum(1, keepdims=True)
        slope = curve * (x - (curve * x).sum(1, keepdims=True))
        np.testing.assert_allclose(r, np.concatenate([curve, (grid[1] - grid[0]) * slope]), atol=1e-12)
        np.testing.assert_allclose(one, CubicHermiteSpline(grid, curve, slope)(x), atol=1e-12)
        for end in (x.argmin(), x.argmax()):
            np.testing.assert_allclose(one[end], b[end], atol=1e-12)


def test_the_bound_is_within_two_of_the_worst_error():
    """Two heaps of v and one place between them; the features are v itself."""
    v = torch.tensor([[-0.15] * 301 + [0.0] + [0.15] * 699], dtype=torch.float64)
    off = (tabulated_attention(v, v[..., None], 2) - plain(v, v[..., None])).abs().max()
    assert 0.45 < off / tabulation_error_bound(v, v[..., None], 2)[0] <= 1


def test_half_the_step_is_a_sixteenth_of_the_error():
    v, values = features(3, 400), features(3, 400, 5, seed=2)
    exact = plain_in_numpy(v, values)
    errors = [np.abs(array(tabulated_attention(v, values, k)) - exact).max() for k in (33, 65, 129)]
    bounds = [tabulation_error_bound(v, values, k) for k in (33, 65, 129)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 11 < coarse / fine < 21
    for coarse, fine in zip(bounds, bounds[1:], strict=False):
        torch.testing.assert_close(coarse / fine, torch.full((3,), 16.0).double())


def test_gradients_of_the_table_approach_those_of_the_formula():
    """The slope of a cubic errs by h^3, its height by h^4: an eighth of the step, 8^3 and 8^4 times less."""
    v, values, pull = features(2, 200), features(2, 200, 4, seed=2), features(2, 200, 4, seed=3)

    def gradients(way):
        leaves = [v.clone().requires_grad_(), values.clone().requires_grad_()]
        return torch.autograd.grad((way(*leaves) * pull).sum(), leaves)

    exact = gradients(plain)
    errors = []
    for knots in (17, 129):
        found = gradients(lambda a, b, knots=knots: tabulated_attention(a, b, knots))
        errors.append([(g - e).abs().max() / e.abs().max() for g, e in zip(found, exact, strict=True)])
    (v17, values17), (v129, values129) = errors
    assert v17 / v129 > 8**3 / 2
    assert values17 / values129 > 8**4 / 2
    assert max(v129, values129) < 1e-4


@pytest.mark.parametrize("knots", [2, 3, 8])
def test_gradients_of_the_table_by_finite_differences(knots):
    leaves = features(2, 9).requires_grad_(), features(2, 9, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, f: tabulated_attention(v, f, knots), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("v", [[0.7], [0.0], [0.0] * 5, [-3.0] * 5, [1e4] * 5, [1.0, 1.0, 1.0 + 2**-23]])
@pytest.mark.parametrize("knots", [2, 16])
def test_table_of_equal_v(v, knots, dtype):
    """One place, or all v equal or neighbours: the mean of the values, and the formula's gradients."""
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}
    results = []
    for way in (plain, lambda a, b: tabulated_attention(a, b, knots)):
        a = torch.tensor([v], dtype=dtype, requires_grad=True)
        b = features(1, len(v), 3, dtype=dtype).requires_grad_()
        out = way(a, b)
        results.append([out, *torch.autograd.grad((out * features(*out.shape, dtype=dtype, seed=3)).sum(), (a, b))])
    for exact, found in zip(*results, strict=True):
        scale = exact.abs().max().clamp_min(1)
        torch.testing.assert_close(found / scale, exact / scale, **tolerance)
    assert tabulation_error_bound(a, b, knots) < 1e-30


def test_table_computes_in_float32_at_least():
    v, values = features(2, 50), features(2, 50, 3, seed=2)
    for narrow, eps in ((torch.float32, 2**-24), (torch.bfloat16, 2**-8)):
        rounded = v.to(narrow).double(), values.to(narrow).double()
        expected = tabulated_attention(*rounded)
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found = tabulated_attention(*(x.to(narrow) for x in rounded))
            assert found.dtype == narrow
            np.testing.assert_allclose(array(found), array(expected), rtol=eps, atol=20 * 2**-24)
    assert tabulated_attention(v.float(), values).dtype == torch.float64
    assert np.abs(array(tabulated_attention(v, values, 1000)) - plain_in_numpy(v, values)).max() < 1e-10


def test_training_from_a_table_never_builds_the_square_matrix():
    """And twice the places make the largest tensor twice as large."""
    sizes = []
    for positions in (1024, 2048):
        v = features(2, positions).requires_grad_()
        values = features(2, positions, 4, seed=2).requires_grad_()
        with Largest() as largest:
            tabulated_attention(v, values, 8).square().sum().backward()
        sizes.append(largest.elements)
    assert sizes[0] <= 2 * 2 * 8 * 1024  # the weights and the slopes at the knots, two samples
    assert sizes[1] == 2 * sizes[0]


@pytest.mark.parametrize("call", [tabulated_attention, tabulation_error_bound])
def test_a_table_needs_two_knots(call):
    with pytest.raises(ValueError, match=r"^knots = 1: a table needs at least 2, the smallest and the largest v$"):
        call(torch.zeros(1, 4), torch.zeros(1, 4, 2), 1)


# --- the cascade -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["both", "channel", "spatial", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_channel_comes_before_spatial(kind, training):
    module = scramble(AttentionModule(6, kind)).double().train(training)
    x = features(3, 6, 4, 5)
    expected, maps = x.numpy(), {}
    if kind in ("both", "channel"):
        expected, maps["channel"] = channel_formula(module.channel, expected, training)
    if kind in ("both", "spatial"):
        expected, maps["spatial"] = spatial_formula(module.spatial, expected, training)
    out, seen = module(x, return_maps=True)
    np.testing.assert_allclose(array(out), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(array(module(x)), expected, rtol=1e-9, atol=1e-11)
    assert seen.keys() == maps.keys()
    for name, attention in maps.items():
        np.testing.assert_allclose(array(seen[name]), attention, rtol=1e-9)


def test_unknown_kind():
    with pytest.raises(ValueError, match=r"^attention 'all' is unknown: use one of both, channel, spatial, none$"):
        AttentionModule(4, "all")
