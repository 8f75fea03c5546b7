"""Columns: the paper's counts, the closed formula of the receptive field, one column recomputed in numpy."""

import numpy as np
import pytest
import torch
from formulas import array, batch_norm, conv2d, relu, scramble
from torch import nn

from mifad_lite import Column


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9])
def test_six_convolutions_five_norms_none_at_depth_six(kernel):
    """The order in which they run, not the order in which they are listed."""
    column = Column(kernel, (4, 5, 6, 7, 8, 9)).eval()
    ran = []
    for module in column.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda m, *_: ran.append(m))
    column(torch.zeros(1, 1, 48, 48))
    convs = [m for m in ran if isinstance(m, nn.Conv2d)]
    assert len(ran) == sum(isinstance(m, nn.Conv2d | nn.BatchNorm2d) for m in column.modules())  # none lies idle
    assert [type(m) for m in ran] == [nn.Conv2d, nn.BatchNorm2d] * 5 + [nn.Conv2d]
    assert {m.kernel_size for m in convs} == {(kernel, kernel)}
    assert [m.bias is not None for m in convs] == [False] * 5 + [True]  # a norm has its own shift


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9, 11])
def test_depths_4_5_6_share_12_by_12(kernel):
    maps = Column(kernel, (2, 3, 4, 5, 6, 7))(torch.rand(3, 1, 48, 48))
    assert [tuple(m.shape) for m in maps] == [(3, width, 12, 12) for width in (5, 6, 7)]


@pytest.mark.parametrize(
    ("kernel", "widths", "says"),
    [
        (4, (4,) * 6, "kernel_size 4 is not odd"),
        (0, (4,) * 6, "kernel_size 0 is not odd"),
        (-3, (4,) * 6, "kernel_size -3 is not odd"),
        (3, (4,) * 5, "5 widths were given"),
    ],
)
def test_bad_arguments_are_named(kernel, widths, says):
    with pytest.raises(ValueError, match=says):
        Column(kernel, widths)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_receptive_field(kernel, axis):
    """Each convolution adds (k - 1) j and each 2x2 pool j pixels, where j is the distance of neighbours in pixels.

    With positive weights nothing cancels: a lit pixel shows at a place if and only if the place can see it.
    """
    length, field, jump, expected = 160, 1, 1, []
    for depth in range(1, 7):
        field += (kernel - 1) * jump
        expected += [field] if depth >= 4 else []
        if depth in (1, 3):
            field, jump = field + jump, 2 * jump
    column = Column(kernel, (1,) * 6).eval()
    for conv in column.convs:
        nn.init.constant_(conv.weight, 1 / kernel**2)
    nn.init.zeros_(column.convs[-1].bias)
    lit = torch.eye(length).view(length, 1, 1, length).expand(-1, -1, 4, -1)  # image i: its pixels i along the axis
    with torch.no_grad():
        maps = column(lit.transpose(2, axis))
    for depth, seen in zip(maps, expected, strict=True):
        middle = depth.transpose(2, axis)[:, 0, 0, length // 4 // 2]
        assert (middle > 0).sum() == seen


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pools", [(1, 3), (2, 5)])
def test_equals_numpy(training, pools):
    column = scramble(Column(5, (2, 3, 4, 3, 2, 3), in_channels=2, pool_after=pools)).double().train(training)
    image = torch.randn(2, 2, 16, 12, dtype=torch.float64)
    expected, x = [], image.numpy()
    for depth in range(1, 7):
        x = conv2d(x, column.convs[depth - 1])
        x = relu(batch_norm(x, column.norms[depth - 1], training) if depth < 6 else x)
        if depth >= 4:
            expected.append(x)
        if depth in pools:
            b, c, h, w = x.shape
            x = x.reshape(b, c, h // 2, 2, w // 2, 2).max((3, 5))
    for ours, theirs in zip(column(image), expected, strict=True):
        np.testing.assert_allclose(array(ours), theirs, rtol=1e-9, atol=1e-12)
