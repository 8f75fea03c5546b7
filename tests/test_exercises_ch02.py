"""Right answers, stubs and classic mistakes for the exercises of chapter 2."""

import math

import torch
from scipy.signal import convolve2d
from torch import nn

SIDES = (48, 24, 24, 12, 12, 12)


def side_by_counting(side, kernel, padding, stride):
    return len(range(0, side + 2 * padding - kernel + 1, stride))


def field_backwards(layers):
    """From one output place back to the pixels: n places of a layer's output read s (n - 1) + d (k - 1) + 1 inputs."""
    n = 1
    for kernel, stride, dilation in reversed(layers):
        n = stride * (n - 1) + dilation * (kernel - 1) + 1
    return n


def field_of(layers, start=1, dilate=True, stride_first=False, strides=True):
    field, step = start, 1
    for kernel, stride, dilation in layers:
        step *= stride if stride_first else 1
        field += (dilation if dilate else 1) * (kernel - 1) * (step if strides else 1)
        step *= 1 if stride_first else stride
    return field


def window_of(place, kernel, depth, low=0, high=47, padding=True):
    """Back from the place, layer by layer."""
    first = last = place
    for d in range(depth, 0, -1):
        pad = kernel // 2 if padding else 0
        first, last = first - pad, last - pad + kernel - 1
        if d - 1 in (1, 3):
            first, last = 2 * first, 2 * last + 1
    return max(low, first), min(high, last)


def cost_of(kernel, widths, sides=SIDES, inputs=True, norms=True, bias=True):
    before = (1, *widths) if inputs else (1,) * 7
    weights = [kernel**2 * c * w for c, w in zip(before, widths, strict=False)]
    extra = 2 * sum(widths[:5]) * norms + widths[5] * bias
    return sum(weights) + extra, sum(w * s * s for w, s in zip(weights, sides, strict=True))


def compose_unflipped(a, b):
    return nn.functional.conv2d(a[None, None], b[None, None], padding=b.shape[-1] - 1)[0, 0]


def compose_same_size(a, b):
    return nn.functional.conv2d(a[None, None], b[None, None].flip(2, 3), padding=b.shape[-1] // 2)[0, 0]


def matched_by_formula(kernel, budget):
    width = int((-1 + math.sqrt(1 + 20 * budget / kernel**2)) / 10) + 2
    while kernel**2 * (width + 5 * width**2) > budget:
        width -= 1
    return width


def stub(*_):
    return None


CASES = {
    "ex-conv-side": {
        "right": [side_by_counting, lambda s, k, p, j: (s + 2 * p - k) // j + 1],
        "stub": stub,
        "wrong": {
            "last place is missing": lambda s, k, p, j: (s + 2 * p - k) // j,
            "counts twice: it is added": lambda s, k, p, j: (s + p - k) // j + 1,
            "stride is ignored": lambda s, k, p, j: s + 2 * p - k + 1,
            "a window that does not fit": lambda s, k, p, j: (s + 2 * p - k) / j + 1,
        },
    },
    "ex-field": {
        "right": [field_backwards, field_of],
        "stub": stub,
        "wrong": {
            "sees its own pixel": lambda layers: field_of(layers, start=0),
            "dilation is ignored": lambda layers: field_of(layers, dilate=False),
            "layers after it": lambda layers: field_of(layers, stride_first=True),
            "strides are ignored": lambda layers: field_of(layers, strides=False),
        },
    },
    "ex-window": {
        "right": [window_of],
        "stub": stub,
        "wrong": {
            "clip the window": lambda *a: window_of(*a, low=-999, high=999),
            "padding is forgotten": lambda *a: window_of(*a, padding=False),
            "not the one after it": lambda *a: (window_of(*a)[0], window_of(*a)[1] + 1),
        },
    },
    "ex-cost": {
        "right": [cost_of],
        "stub": stub,
        "wrong": {
            "every input channel": lambda *a: cost_of(*a, inputs=False),
            "pools are ignored": lambda *a: cost_of(*a, sides=(48,) * 6),
            "comes after its convolution": lambda *a: cost_of(*a, sides=(24, 24, 12, 12, 12, 12)),
            "norms (a scale": lambda *a: cost_of(*a, norms=False, bias=False),
            "sixth convolution has a bias": lambda *a: cost_of(*a, bias=False),
        },
    },
    "ex-compose": {
        "right": [lambda a, b: torch.from_numpy(convolve2d(a.numpy(), b.numpy()))],
        "stub": stub,
        "wrong": {
            "has to be flipped": compose_unflipped,
            "pixels together": compose_same_size,
            "return a (5, 5) tensor": lambda a, b: a @ b if a.shape == (9, 9) else torch.zeros(4, 4),
        },
    },
    "ex-matched": {
        "right": [matched_by_formula],
        "stub": stub,
        "wrong": {
            "must not exceed the budget": lambda k, budget: matched_by_formula(k, budget) + 1,
            "reads one channel": lambda k, budget: int(math.sqrt(budget / (6 * k**2))),
            "first convolution is missing": lambda k, budget: int(math.sqrt(budget / (5 * k**2))),
        },
    },
}
