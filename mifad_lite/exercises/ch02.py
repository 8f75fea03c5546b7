"""Checks of chapter 2: sizes, receptive fields, costs, kernels in a row, columns of equal weight."""

import torch
import torch.nn.functional as F
from torch import nn

from ..columns import Column
from . import Mistake, call, exercise, require


@exercise("ex-conv-side")
def conv_side(answer):
    for side, kernel, padding, stride in ((48, 5, 0, 1), (48, 3, 1, 2), (12, 7, 3, 1), (47, 4, 2, 3)):
        shape = f"a {kernel}x{kernel} kernel, padding {padding}, stride {stride} on {side} pixels"
        found = call(answer, side, kernel, padding, stride)
        span = side + 2 * padding - kernel
        want = nn.Conv2d(1, 1, kernel, stride, padding)(torch.zeros(1, 1, side, side)).shape[-1]
        if found != want:
            require(found != span // stride, "the last place is missing: the first window stands at 0, so add 1")
            require(found != (span - padding) // stride + 1, "padding counts twice: it is added on both sides")
            require(found != span + 1, "the stride is ignored: only every stride-th place is computed")
            require(found != span / stride + 1, "round down: a window that does not fit is left out")
        require(found == want, f"{shape} gives a map of side {want}, not {found}")


@exercise("ex-field")
def field(answer):
    for layers in ([(3, 1, 1)], [(3, 1, 2), (3, 1, 4)], [(5, 2, 1), (3, 1, 1), (2, 2, 1), (7, 1, 1)], [(3, 2, 3)] * 3):
        found = call(answer, layers)
        fine = early = plain = flat = 1
        step = 1
        for kernel, stride, dilation in layers:
            fine += dilation * (kernel - 1) * step
            plain += (kernel - 1) * step
            flat += dilation * (kernel - 1)
            step *= stride
            early += dilation * (kernel - 1) * step
        if found != fine:
            require(found != fine - 1, "start at 1: before any layer a place sees its own pixel")
            require(found != plain, "the dilation is ignored: it spreads the k taps over d (k - 1) + 1 places")
            require(found != early, "a layer's stride widens the steps of the layers after it, not its own")
            require(found != flat, "the strides are ignored: after a stride of 2 each step is 2 pixels wide")
        require(found == fine, f"for the layers {layers} the field is {fine} pixels wide, not {found}")


@exercise("ex-window")
def window(answer):
    for place, kernel, depth in ((6, 3, 4), (0, 3, 4), (11, 3, 6), (20, 7, 2), (10, 5, 3), (3, 9, 6)):
        found = tuple(int(v) for v in call(answer, place, kernel, depth))
        require(len(found) == 2, "return two numbers, the first and the last pixel")
        step = (1, 2, 2, 4, 4, 4)[depth - 1]
        reach = kernel // 2 * sum((1, 2, 2, 4, 4, 4)[:depth])  # what the windows add on each side
        low, high = place * step - reach, place * step + step - 1 + reach
        where = f"place {place} at depth {depth} of the {kernel}x{kernel} column"
        want = (max(0, low), min(47, high))
        if found != want:
            require(found != (low, high), "pixels outside 0 to 47 are padding: clip the window to the face")
            shifted = (place * step, min(47, place * step + 2 * reach + step - 1))
            require(found != shifted, "the padding is forgotten: the window's middle, not its edge, lies at the place")
            require(found != (want[0], want[1] + 1), "return the last pixel that is seen, not the one after it")
        require(found == want, f"{where} sees pixels {want[0]} to {want[1]}, not {found[0]} to {found[1]}")


@exercise("ex-cost")
def cost(answer):
    for kernel, widths in ((3, (8, 16, 16, 16, 16, 16)), (5, (2, 3, 4, 5, 6, 7))):
        column, sides = Column(kernel, widths), (48, 24, 24, 12, 12, 12)
        weights = [conv.weight.numel() for conv in column.convs]
        macs = sum(w * side**2 for w, side in zip(weights, sides, strict=True))
        early = sum(w * side**2 for w, side in zip(weights, (24, 24, 12, 12, 12, 12), strict=True))
        want = sum(p.numel() for p in column.parameters())
        found = call(answer, kernel, widths)
        require(len(found) == 2, "return two numbers: parameters and multiply-adds")
        found = tuple(int(v) for v in found)
        one = sum(kernel**2 * w * s**2 for w, s in zip(widths, sides, strict=True))
        require(found[1] != one, "each output channel has a kernel for every input channel: multiply by both widths")
        require(found[1] != sum(weights) * 48**2, "the pools are ignored: after them the maps are 24 and 12 wide")
        require(found[1] != early, "the pool comes after its convolution: conv1 still works on 48 x 48 places")
        require(found[0] != sum(weights), "the norms (a scale and a shift a channel) and the last bias are missing")
        require(found[0] != want - widths[5], "the sixth convolution has a bias: one number for each of its channels")
        what = f"a {kernel}x{kernel} column of widths {widths}"
        require(found[0] == want, f"{what} has {want} parameters, not {found[0]}")
        require(found[1] == macs, f"{what} takes {macs} multiply-adds, not {found[1]}")


@exercise("ex-compose")
def compose(answer):
    generator = torch.Generator().manual_seed(2)
    for ka, kb in ((3, 3), (5, 3), (3, 7)):
        a, b = (torch.randn(k, k, generator=generator, dtype=torch.float64) for k in (ka, kb))
        found = torch.as_tensor(call(answer, a, b)).double()
        side = ka + kb - 1
        sizes = f"{ka}x{ka} and {kb}x{kb}"
        require(found.shape[-1] != max(ka, kb), f"{sizes} see {side} pixels together: the result has side {side}")
        require(found.shape == (side, side), f"for {sizes} return a ({side}, {side}) tensor, not {tuple(found.shape)}")
        x = torch.randn(1, 1, 16, 16, generator=generator, dtype=torch.float64)
        want = F.conv2d(F.conv2d(x, a[None, None]), b[None, None])
        if torch.allclose(F.conv2d(x, found[None, None]), want):
            continue
        for flipped in (found.flip(0, 1), F.conv2d(a[None, None], b[None, None], padding=kb - 1)[0, 0]):
            same = torch.allclose(F.conv2d(x, flipped[None, None]), want) or torch.allclose(found, flipped)
            require(not same, "one kernel has to be flipped: F.conv2d slides without flipping, so it is a correlation")
        raise Mistake(f"for {sizes} one convolution with your kernel differs from the two in a row")


@exercise("ex-matched")
def matched(answer):
    for kernel, budget in ((3, 32_093), (7, 32_093), (5, 2_000), (3, 9 * 22)):
        found = call(answer, kernel, budget)
        use = lambda width, kernel=kernel: kernel**2 * (width + 5 * width**2)  # noqa: E731
        best = max(w for w in range(200) if use(w) <= budget)
        if found != best:
            six = max(w for w in range(200) if kernel**2 * 6 * w**2 <= budget)
            require(found != six, "the first convolution reads one channel, not C: its weights are k^2 C")
            five = max(w for w in range(200) if kernel**2 * 5 * w**2 <= budget)
            require(found != five, "the first convolution is missing: add its k^2 C weights")
            require(found != best + 1, "one too many: the weights must not exceed the budget")
        require(found == best, f"kernel {kernel} and {budget} weights allow a width of {best}, not {found}")
