"""Interactive fusion against its equations in numpy."""

import numpy as np
import pytest
import torch
from formulas import array, batch_norm, conv2d, relu, scramble
from scipy.special import expit

from mifad_lite import InteractiveFusion

WIDTHS = [(4,), (3, 4), (4, 4, 4), (2, 4, 6), (4, 3, 4, 5)]


def maps_of(widths, batch=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, c, 5, 6, generator=generator, dtype=torch.float64) for c in widths]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fusion", ["concat", "add", "mul"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_equals_the_equations(widths, fusion, training):
    block = scramble(InteractiveFusion(widths, 4, "both", fusion)).double().train(training)
    maps = maps_of(widths)
    aligned = [
        f.numpy() if c == 4 else conv2d(f.numpy(), align) for f, c, align in zip(maps, widths, block.align, strict=True)
    ]
    gate = expit(conv2d(np.concatenate(aligned, 1), block.merge))
    recalibrated = [gate * f for f in aligned]
    splice = {
        "concat": lambda r: np.concatenate(r, 1),
        "add": lambda r: np.sum(r, 0),
        "mul": lambda r: np.prod(r, 0),
    }[fusion](recalibrated)
    attended = array(block.attention(torch.from_numpy(np.sum(aligned, 0))))  # test_attention.py checks this part
    expected = relu(batch_norm(conv2d(np.concatenate([splice, attended], 1), block.project), block.norm, training))

    out, seen = block(maps, return_maps=True)
    np.testing.assert_allclose(array(out), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(array(block(maps)), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(array(seen["gate"]), gate, rtol=1e-9)
    assert seen.keys() == {"gate", "channel", "spatial"}


def test_gate_lies_between_0_and_1_and_hears_every_column():
    maps = [f.requires_grad_() for f in maps_of((4, 4, 4))]
    gate = scramble(InteractiveFusion((4, 4, 4), 4)).double().gate(maps)
    assert gate.shape == maps[0].shape
    assert 0 < gate.min() < gate.max() < 1
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(gate.sum(), maps))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_gate_that_is_shut_or_open_leaves_no_subnormal_numbers(kind):
    """Logits from -200 to 200: right to the last digit, and neither a gate nor a gradient too small to be normal."""
    block = InteractiveFusion((1, 1), 1).to(kind)
    with torch.no_grad():
        block.merge.weight.zero_()[0, 0, 1, 1] = 1
        block.merge.bias.zero_()
    logits = torch.linspace(-200, 200, 4001).to(kind).view(1, 1, 1, -1).requires_grad_()
    gate = block.gate([logits, torch.zeros_like(logits)])
    exact = expit(array(logits.double()))
    np.testing.assert_allclose(array(gate.double()), exact, rtol=4 * torch.finfo(kind).eps, atol=5e-18)
    (slope,) = torch.autograd.grad(gate.sum(), logits)
    np.testing.assert_allclose(array(slope.double()), exact * (1 - exact), rtol=0, atol=torch.finfo(kind).eps)
    for numbers in (gate, slope):
        sizes = numbers.detach().double().abs()
        assert sizes[sizes > 0].min() > 1e-20
    assert (slope == 0).any()
    assert gate.min() > 0


@pytest.mark.parametrize("widths", WIDTHS)
def test_aligns_only_where_widths_differ(widths):
    """An equal width costs no parameter."""
    spent = [sum(p.numel() for p in align.parameters()) for align in InteractiveFusion(widths, 4).align]
    assert spent == [0 if c == 4 else 4 * c + 4 for c in widths]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fusion": "sum"}, r"^fusion 'sum' is unknown: use one of concat, add, mul$"),
        ({"attention": "self"}, r"^attention 'self' is unknown: use one of both, channel, spatial, none$"),
    ],
)
def test_wrong_names_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        InteractiveFusion((4, 4), 4, **changes)
