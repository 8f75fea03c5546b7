"""Chapter 6: right answers, stubs and classic mistakes for its exercises. test_exercises.py runs them."""

import copy

import torch
from torch import nn

import mifad_lite as m


def sides(pool_after, size=48):
    out = []
    for depth in range(1, 7):
        out.append(size)
        if depth in pool_after:
            size //= 2
    return out


def early(pool_after, size=48):
    out = []
    for depth in range(1, 7):
        if depth in pool_after:
            size //= 2
        out.append(size)
    return out


def measured_sides(pool_after, size=48):
    column, seen = m.Column(3, (1,) * 6, pool_after=pool_after), []
    for conv in column.convs:
        conv.register_forward_hook(lambda module, x, out: seen.append(out.shape[-1]))
    column.eval()(torch.zeros(1, 1, size, size))
    return seen


def stepwise(step):
    def answer(pool_after, size=48):
        out = []
        for depth in range(1, 7):
            out.append(size)
            if depth in pool_after:
                size = step(size)
        return out

    return answer


def hooked(count, kinds=(nn.Conv2d, nn.Linear), remove=True):
    """A counter that adds count(layer, input, output) over the layers of these kinds."""

    def answer(net, x):
        total, handles = [], []
        for layer in net.modules():
            if isinstance(layer, kinds):
                handles.append(layer.register_forward_hook(lambda la, i, o: total.append(count(la, i[0], o))))
        net(x)
        if remove:
            for handle in handles:
                handle.remove()
        return sum(total)

    return answer


def each(layer, x, out):
    return layer.weight.numel() * out[0].numel() // out.shape[1]


def ungrouped(layer, x, out):
    return each(layer, x, out) * getattr(layer, "groups", 1)


def at_input(layer, x, out):
    return layer.weight.numel() * (x.shape[2:].numel() if x.dim() == 4 else 1)


def fold(conv, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    own = 0 if conv.bias is None else conv.bias
    return torch.einsum("oikl,o->oikl", conv.weight, factor), norm.bias + (own - norm.running_mean) * factor


def fold_by_probing(conv, norm):
    """The answers to a zero and to unit pictures, with no formula at all."""
    k = conv.kernel_size[0]
    zero = torch.zeros(1, conv.in_channels, k, k, dtype=conv.weight.dtype)
    middle = (slice(None), slice(None), k // 2, k // 2)
    bias = norm(conv(zero))[middle][0]
    weight = torch.empty_like(conv.weight)
    for i in range(conv.in_channels):
        for u in range(k):
            for v in range(k):
                probe = zero.clone()
                probe[0, i, u, v] = 1
                weight[:, i, u, v] = norm(conv(probe))[middle][0] - bias
    return weight, bias


def fold_with(weight=None, bias=None):
    """The right answer with one half replaced; both get (conv, norm, own bias, factor)."""

    def answer(conv, norm):
        w, b = fold(conv, norm)
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        own = torch.zeros_like(factor) if conv.bias is None else conv.bias
        return weight(conv, norm, own, factor) if weight else w, bias(conv, norm, own, factor) if bias else b

    return answer


def rows(values):
    return values[:, None, None, None]


STEPS = (1, 2, 2, 2, 2, 2)


def config(widths, **change):
    settings = {"widths": tuple(tuple(f * w for f in STEPS) for w in widths), "channels": 16, "embedding": 32}
    return m.MIFADConfig(**{**settings, **change})


def merged(layer, norm):
    """A linear or convolutional layer with the norm behind it folded in."""
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    new = copy.deepcopy(layer)
    new.weight = nn.Parameter(layer.weight * factor.view(-1, *[1] * (layer.weight.dim() - 1)))
    new.bias = nn.Parameter(norm.bias - norm.running_mean * factor)
    return new


def fold_all(net, copied=True, columns=True, fusions=True, embedding=True, attention=False, lossy=False, train=False):
    net = copy.deepcopy(net) if copied else net
    if columns:
        for column in net.columns:
            for i, norm in enumerate(column.norms):
                if not lossy:
                    column.convs[i] = merged(column.convs[i], norm)
                column.norms[i] = nn.Identity()
    for fusion in net.fusions:
        if fusions:
            fusion.project, fusion.norm = merged(fusion.project, fusion.norm), nn.Identity()
        if attention:
            fusion.attention.channel.norm = nn.Identity()
    if embedding:
        net.embed, net.norm = merged(net.embed, net.norm), nn.Identity()
    return net.train(train)


CASES = {
    "ex-tail-count": {
        "right": [
            lambda c, g, e: e * (3 * c * g * g + 9),
            lambda c, g, e: sum(
                p.numel()
                for name, p in m.MIFADNet(m.MIFADConfig(channels=c, pool_grid=g, embedding=e)).named_parameters()
                if not name.startswith(("columns", "fusions"))
            ),
        ],
        "stub": lambda channels, grid, embedding: ...,
        "wrong": {
            "square it": lambda c, g, e: 3 * c * g * e + 9 * e,
            "three depths": lambda c, g, e: c * g * g * e + 9 * e,
            "2 E are missing": lambda c, g, e: 3 * c * g * g * e + 7 * e,
            "seven class directions are missing": lambda c, g, e: 3 * c * g * g * e + 2 * e,
            "the embedding has no bias": lambda c, g, e: 3 * c * g * g * e + 10 * e,
            "not learned": lambda c, g, e: 3 * c * g * g * e + 11 * e,
            "cosines need none": lambda c, g, e: 3 * c * g * g * e + 9 * e + 7,
            "neither": lambda c, g, e: 3 * c * g * g * e + 10 * e + 7,
            "you give 1": lambda c, g, e: 1,
        },
    },
    "ex-network-sides": {
        "right": [sides, measured_sides],
        "stub": lambda pool_after, size: ...,
        "wrong": {
            "the pool comes after it": early,
            "not quarters": stepwise(lambda s: s // 4),
            "whole number": stepwise(lambda s: s / 2),
            "round up": stepwise(lambda s: -(-s // 2)),
            "add up": lambda p, s: [s // 2 if any(q < d for q in p) else s for d in range(1, 7)],
            "list of six": lambda p, s: sides(p, s)[3:],
            "yours [48, 48": lambda p, s: [s] * 6,
        },
    },
    "ex-layer-macs": {
        "right": [hooked(each), hooked(lambda la, x, out: la.weight[0].numel() * out[0].numel())],
        "stub": lambda net, x: ...,
        "wrong": {
            "the whole batch": hooked(lambda la, x, out: each(la, x, out) * len(x)),
            "with groups": hooked(ungrouped),
            "stride 2": hooked(at_input),
            "linear layers are missing": hooked(each, nn.Conv2d),
            "convolutions are missing": hooked(each, nn.Linear),
            "added, it is no": hooked(lambda la, x, out: each(la, x, out) + out[0].numel()),
            "leave it out": hooked(lambda la, x, out: each(la, x, out) + la.bias.numel()),
            "these are the weights": hooked(lambda la, x, out: la.weight.numel()),
            "is one": hooked(lambda la, x, out: 2 * each(la, x, out)),
            "4 hooks stay": hooked(each, remove=False),
        },
    },
    "ex-fold": {
        "right": [fold, fold_by_probing],
        "stub": lambda conv, norm: ...,
        "wrong": {
            "eps is forgotten": fold_with(lambda c, n, b, f: c.weight * rows(n.weight / n.running_var.sqrt())),
            "square root": fold_with(lambda c, n, b, f: c.weight * rows(n.weight / (n.running_var + n.eps))),
            "(norm.weight) is missing": fold_with(lambda c, n, b, f: c.weight * rows((n.running_var + n.eps).rsqrt())),
            "first axis": fold_with(lambda c, n, b, f: c.weight * f[:, None, None]),
            "as it was": fold_with(lambda c, n, b, f: c.weight),
            "weight is off": fold_with(lambda c, n, b, f: c.weight * 7),
            "mean is ignored": fold_with(bias=lambda c, n, b, f: b * f + n.bias),
            "must be scaled too": fold_with(bias=lambda c, n, b, f: b - n.running_mean * f + n.bias),
            "own bias is lost": fold_with(bias=lambda c, n, b, f: n.bias - n.running_mean * f),
            "(norm.bias) is missing": fold_with(bias=lambda c, n, b, f: (b - n.running_mean) * f),
            "bias is not scaled": fold_with(bias=lambda c, n, b, f: b - n.running_mean + n.bias),
            "mean is added": fold_with(bias=lambda c, n, b, f: (b + n.running_mean) * f + n.bias),
            "the pair": lambda conv, norm: fold(conv, norm)[0],
        },
    },
    "ex-balance": {
        "right": [
            config((7, 10, 17)),
            config((7, 10, 16)),
            config((5, 7, 12), pool_after=(3, 5)),
            config((7, 10, 16), pool_after=(2, 4)),
        ],
        "stub": ...,
        "wrong": {
            "have the same widths": m.PRESETS["tiny"],
            "must be the narrow one": config((16, 11, 8)),
            "1.2 is allowed": config((8, 11, 12)),
            "30 million is the least": config((4, 6, 10)),
            "do 20.4 million": config((7, 10, 16), pool_after=(1, 2, 4)),
            "is the budget": config((7, 10, 17), channels=48),
            "the kernels are": config((8, 11), kernel_sizes=(7, 5)),
            "not tuple": ((8, 16), (11, 22)),
        },
    },
    "ex-fold-all": {
        "right": [fold_all],
        "stub": lambda net: ...,
        "wrong": {
            "you changed the network": lambda net: fold_all(net, copied=False),
            "15 norms are left in the columns": lambda net: fold_all(net, columns=False),
            "3 norms are left in the fusions": lambda net: fold_all(net, fusions=False),
            "left in the embedding": lambda net: fold_all(net, embedding=False),
            "keep all 6": lambda net: fold_all(net, attention=True),
            "outputs differ": lambda net: fold_all(net, lossy=True),
            "training mode": lambda net: fold_all(net, train=True),
        },
    },
}
