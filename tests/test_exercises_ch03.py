"""Chapter 3: right answers, stubs and classic mistakes for its exercises. test_exercises.py runs them."""

import copy
import dataclasses
import math

import numpy as np
import torch

import mifad_lite as m


def softmax_by_hand(logits, dim):
    e = torch.exp(logits - logits.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


def outer(v):
    return torch.einsum("bi,bj->bij", v, v)


def mlp(pooled, down, up):
    return torch.relu(pooled @ down.T) @ up.T


def cbam(x, down, up):
    gate = torch.sigmoid(mlp(x.mean((2, 3)), down, up) + mlp(x.amax((2, 3)), down, up))
    return torch.einsum("bchw,bc->bchw", x, gate)


def gated(x, gate):
    return x * gate[:, :, None, None]


def temperature(v, channels, base=math.e, sign=1):
    low, high = 0.0, 1000.0
    for _ in range(200):
        t = (low + high) / 2
        p = torch.softmax(sign * t * v.double(), 0)
        spread = base ** torch.special.entr(p).sum().item()
        low, high = (t, high) if spread > channels else (low, t)
    return sign * t


def twin(v):
    a = torch.softmax(torch.outer(v, v), 1)
    stationary = torch.exp(torch.outer(v, v)).sum(1).sqrt()
    return torch.diag(stationary) @ a @ torch.diag(1 / stationary)


def rows(v):
    return torch.softmax(torch.outer(v, v), 1)


def without(net, depths=(0, 1, 2), beta=False, merge=False, conv=False):
    net = copy.deepcopy(net)
    for i in depths:
        net.fusions[i].attention.channel.alpha.data.zero_()
        if beta:
            net.fusions[i].attention.spatial.beta.data.zero_()
        if merge:
            net.fusions[i].merge.weight.data.zero_()
        if conv:
            net.fusions[i].attention.channel.conv.weight.data.zero_()
    return net


def replaced(net, what, copied=True):
    silent = copy.deepcopy(net)
    for fusion in (silent if copied else net).fusions:
        fusion.attention.channel = what
    return silent


def rebuilt(net):
    """Another network, of the kind that never had a channel attention, with the weights of `net`, in training mode."""
    other = m.MIFADNet(dataclasses.replace(net.config, attention="spatial"))
    other.load_state_dict(net.state_dict(), strict=False)
    return other


def hooked(net):
    silent = copy.deepcopy(net)
    for fusion in silent.fusions:
        fusion.attention.channel.register_forward_hook(lambda block, args, out: args[0])
    return silent


def no_attention(net):
    silent = copy.deepcopy(net)
    for fusion in silent.fusions:
        fusion.attention = None
    return silent


CASES = {
    "ex-channel-count": {
        "right": [
            lambda c: sum(p.numel() for p in m.ChannelAttention(c).parameters()),
            lambda c: (c + 1) * (c + 2),
        ],
        "stub": lambda channels: ...,
        "wrong": {
            "or batch norm two rows": lambda c: c * c + 2 * c + 2,
            "2 C are missing": lambda c: c * c + c + 2,
            "are measured, not learned": lambda c: c * c + 5 * c + 2,
            "a counter": lambda c: sum(t.numel() for t in m.ChannelAttention(c).state_dict().values()),
            "one slope for all channels": lambda c: c * c + 4 * c + 1,
            "number is missing": lambda c: c * c + 3 * c + 1,
            "you give 10": lambda c: 10,
        },
    },
    "ex-channel-map": {
        "right": [lambda v: torch.softmax(outer(v), dim=-1), lambda v: softmax_by_hand(outer(v), 2)],
        "stub": lambda v: ...,
        "wrong": {
            "columns instead of rows": lambda v: torch.softmax(outer(v), dim=1),
            "the whole matrix": lambda v: torch.softmax(outer(v).flatten(1), -1).reshape(outer(v).shape),
            "softmax is missing": outer,
            "no such factor": lambda v: torch.softmax(outer(v) / v.shape[1] ** 0.5, dim=-1),
            "overflow": lambda v: torch.exp(outer(v)) / torch.exp(outer(v)).sum(-1, keepdim=True),
            "must be (2, 5, 5)": lambda v: torch.softmax(v, dim=-1),
            "weights are off": lambda v: torch.softmax(2 * outer(v), dim=-1),
        },
    },
    "ex-channel-cbam": {
        "right": [
            cbam,
            lambda x, d, u: gated(x, sum(mlp(p, d, u) for p in (x.flatten(2).mean(2), x.flatten(2).amax(2))).sigmoid()),
        ],
        "stub": lambda x, down, up: ...,
        "wrong": {
            "before the MLP": lambda x, d, u: gated(x, mlp(x.mean((2, 3)) + x.amax((2, 3)), d, u).sigmoid()),
            "squeeze-and-excitation": lambda x, d, u: gated(x, mlp(x.mean((2, 3)), d, u).sigmoid()),
            "the mean is missing": lambda x, d, u: gated(x, mlp(x.amax((2, 3)), d, u).sigmoid()),
            "two sigmoids": lambda x, d, u: gated(
                x, mlp(x.mean((2, 3)), d, u).sigmoid() + mlp(x.amax((2, 3)), d, u).sigmoid()
            ),
            "sigmoid is missing": lambda x, d, u: gated(x, mlp(x.mean((2, 3)), d, u) + mlp(x.amax((2, 3)), d, u)),
            "the ReLU": lambda x, d, u: gated(x, ((x.mean((2, 3)) + x.amax((2, 3))) @ d.T @ u.T).sigmoid()),
            "no residual": lambda x, d, u: cbam(x, d, u) + x,
            "these are the gates": lambda x, d, u: torch.sigmoid(mlp(x.mean((2, 3)), d, u) + mlp(x.amax((2, 3)), d, u)),
            "output is off": lambda x, d, u: 2 * cbam(x, d, u),
        },
    },
    "ex-channel-temperature": {
        "right": [temperature, lambda v, k: torch.tensor(temperature(v, k))],
        "stub": lambda v, channels: ...,
        "wrong": {
            "is negative: such a row": lambda v, k: temperature(v, k, sign=-1),
            "base is mixed up": lambda v, k: temperature(v, k, base=2),
            "temperature 1 / t": lambda v, k: 1 / temperature(v, k),
            "the row spreads over": lambda v, k: 1.0,
        },
    },
    "ex-channel-twin": {
        "right": [
            twin,
            lambda v: (lambda k: k / torch.outer(k.sum(1), k.sum(1)).sqrt())(torch.exp(torch.outer(v, v))),
        ],
        "stub": lambda v: ...,
        "wrong": {
            "A_c itself": rows,
            "has other eigenvalues than A.": lambda v: (rows(v) + rows(v).T) / 2,
            "squared singular values": lambda v: rows(v) @ rows(v).T,
            "not divided by anything yet": lambda v: torch.exp(torch.outer(v, v)),
            "square roots": lambda v: (lambda k: k / torch.outer(k.sum(1), k.sum(1)))(torch.exp(torch.outer(v, v))),
            "not symmetric": lambda v: rows(2 * v),
        },
    },
    "ex-channel-off": {
        "right": [
            without,
            lambda net: replaced(net, None),
            lambda net: replaced(net, torch.nn.Identity()),
            lambda net: without(net, conv=True),
            rebuilt,
            hooked,
        ],
        "stub": lambda net: ...,
        "wrong": {
            "the network that you were given": lambda net: replaced(net, None, copied=False),
            "three depths count: there is attention left at depth 5, 6": lambda net: without(net, depths=(0,)),
            "three depths count: there is attention left at depth 4": lambda net: without(net, depths=(1, 2)),
            "spatial attention (beta) as well": lambda net: without(net, beta=True),
            "answers as it did": copy.deepcopy,
            "something else changed": lambda net: without(net, merge=True),
            "stops with TypeError": no_attention,
            "network, not ndarray": lambda net: np.zeros(3),
        },
    },
}
