"""Checks of chapter 3: channel attention."""

import copy
import math

import numpy as np
import torch

from ..attention import ChannelAttention
from ..model import PRESETS, MIFADNet
from . import Mistake, call, exercise, require

RNG = np.random.default_rng(3)
V = RNG.normal(size=(2, 5))  # attention vectors of two faces
MAPS = RNG.normal(size=(2, 5, 3, 4))  # feature maps, height and width apart
DOWN, UP = RNG.normal(size=(4, 5)), RNG.normal(size=(5, 4))  # an MLP with four hidden units


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(logits - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def array(value) -> np.ndarray:
    return np.asarray(value.detach() if torch.is_tensor(value) else value, dtype=np.float64)


def near(value, wanted, tolerance: float = 1e-5) -> bool:
    value = array(value)
    return value.shape == np.shape(wanted) and bool(np.allclose(value, wanted, atol=tolerance))


@exercise("ex-channel-count")
def count(answer):
    for channels in (5, 16, 48):
        block = ChannelAttention(channels)
        right, got = sum(p.numel() for p in block.parameters()), call(answer, channels)
        known = {
            right - channels: "the convolution has a bias of C numbers, or batch norm two rows of C: C are missing",
            right - 2 * channels: "batch norm learns a factor and an offset for each channel: 2 C are missing",
            right + 2 * channels: "the running mean and variance are measured, not learned: they are no parameters",
            right + 2 * channels + 1: "what batch norm measures (mean, variance, a counter) is no parameter",
            right + channels - 1: "this PReLU has one slope for all channels, not one for each",
            right - 1: "one number is missing: alpha, or the slope of the PReLU",
        }
        require(got == right, known.get(got, f"for C = {channels} there are {right:,} parameters, you give {got}"))


@exercise("ex-channel-map")
def channel_map(answer):
    logits = V[:, :, None] * V[:, None, :]
    got = call(answer, torch.tensor(V))
    require(tuple(got.shape) == logits.shape, f"the map of v (2, 5) must be (2, 5, 5), yours is {tuple(got.shape)}")
    require(not near(got, logits), "the softmax is missing: these are the logits")
    require(not near(got, softmax(logits, 1)), "the softmax runs over columns instead of rows: use dim=-1")
    flat = softmax(logits.reshape(2, -1), 1).reshape(logits.shape)
    require(not near(got, flat), "the softmax runs over the whole matrix: every row must sum to 1")
    scaled = softmax(logits / math.sqrt(5), 2)
    require(not near(got, scaled), "you divide by sqrt(C): the paper's channel attention has no such factor")
    require(near(got, softmax(logits, 2)), "the weights are off: row i is the softmax of v_i v_j over j")
    large = array(call(answer, torch.tensor([[100.0, -100.0, 0.0]])))
    require(np.isfinite(large).all(), "for large v the exponentials overflow: subtract the row's largest logit first")


@exercise("ex-channel-cbam")
def cbam(answer):
    mean, peak = MAPS.mean((2, 3)), MAPS.max((2, 3))

    def mlp(pooled, hidden=lambda h: np.maximum(h, 0)):
        return hidden(pooled @ DOWN.T) @ UP.T

    def gate(z):
        return 1 / (1 + np.exp(-z))

    def times(weights):
        return MAPS * weights[:, :, None, None]

    got = call(answer, *(torch.tensor(value) for value in (MAPS, DOWN, UP)))
    right = gate(mlp(mean) + mlp(peak))
    require(not near(got, right), "these are the gates: multiply the maps by them")
    require(tuple(got.shape) == MAPS.shape, f"the output has the shape of F, not {tuple(got.shape)}")
    known = (
        (times(gate(mlp(mean + peak))), "you add the two pools before the MLP, as MIFAD-Net does: CBAM adds after it"),
        (times(gate(mlp(mean))), "only the mean is used: that is squeeze-and-excitation"),
        (times(gate(mlp(peak))), "only the maximum is used, the mean is missing"),
        (times(gate(mlp(mean)) + gate(mlp(peak))), "you add two sigmoids: add first, then take one sigmoid"),
        (times(mlp(mean) + mlp(peak)), "the sigmoid is missing"),
        (times(gate(mlp(mean, lambda h: h) + mlp(peak, lambda h: h))), "the ReLU between the two layers is missing"),
        (times(right) + MAPS, "there is no residual here: CBAM multiplies and adds nothing"),
    )
    for wrong, message in known:
        require(not near(got, wrong), message)
    require(near(got, times(right)), "the output is off: F times sigmoid(up relu(down mean) + up relu(down max))")


@exercise("ex-channel-temperature")
def temperature(answer):
    for v in V:
        for channels in (1.5, 3.0, 4.5):

            def spread(t, v=v, base=math.e):
                p = softmax(t * v, 0)
                return base ** -(p * np.log(p + 1e-300)).sum()

            t = float(call(answer, torch.tensor(v), channels))
            require(math.isfinite(t), "your t is not a finite number")
            require(t >= 0, "t is negative: such a row prefers the lowest v, you want t > 0")
            mixed_up = abs(spread(t, base=2) - channels) < 1e-3
            require(not mixed_up, "the base is mixed up: with H in nats the spread is exp(H), in bits it is 2 ** H")
            require(abs(spread(1 / max(t, 1e-9)) - channels) > 1e-3, "you return the temperature 1 / t instead of t")
            got = spread(t)
            require(
                abs(got - channels) < 1e-3, f"at t = {t:.3f} the row spreads over {got:.3f} channels, not {channels}"
            )


@exercise("ex-channel-twin")
def twin(answer):
    v = V[0]
    kernel = np.exp(np.outer(v, v))
    weights = kernel / kernel.sum(1, keepdims=True)
    root = np.sqrt(kernel.sum(1))
    got = array(call(answer, torch.tensor(v)))
    require(got.shape == weights.shape, f"for v (5,) the matrix must be (5, 5), yours is {got.shape}")
    require(not near(got, weights), "this is A_c itself, which is not symmetric")
    require(not near(got, (weights + weights.T) / 2), "(A + A^T) / 2 is symmetric but has other eigenvalues than A")
    require(not near(got, weights @ weights.T), "A A^T has the squared singular values of A as eigenvalues")
    require(not near(got, kernel), "this is the kernel exp(v_i v_j): its rows are not divided by anything yet")
    sums = np.outer(root, root) ** 2
    require(not near(got, kernel / sums), "you divide by the two row sums: divide by their square roots")
    require(np.allclose(got, got.T), "your matrix is not symmetric")
    require(near(got, kernel / np.outer(root, root)), "divide exp(v_i v_j) by sqrt(row sum i) and sqrt(row sum j)")


def silenced(net: MIFADNet, depths=(0, 1, 2), beta: bool = False) -> MIFADNet:
    """A copy with alpha = 0 in the fusions `depths`, and with beta = 0 everywhere if `beta`."""
    net = copy.deepcopy(net)
    for i, fusion in enumerate(net.fusions):
        if i in depths:
            torch.nn.init.zeros_(fusion.attention.channel.alpha)
        if beta:
            torch.nn.init.zeros_(fusion.attention.spatial.beta)
    return net


@exercise("ex-channel-off")
def off(answer):
    torch.manual_seed(0)
    net = MIFADNet(PRESETS["tiny"]).eval()
    faces = torch.rand(8, 1, 48, 48)
    with torch.no_grad():
        for fusion in net.fusions:
            fusion.attention.channel.alpha.fill_(0.7)
            fusion.attention.spatial.beta.fill_(0.3)

    @torch.no_grad()
    def logits(network):
        return network.eval()(faces)

    before, wanted = copy.deepcopy(net), logits(silenced(net))
    got = call(answer, net)
    require(isinstance(got, torch.nn.Module), f"return a network, not {type(got).__name__}")
    state = net.state_dict()
    same = state.keys() == before.state_dict().keys() and all(
        torch.equal(value, state[name]) for name, value in before.state_dict().items()
    )
    require(
        got is not net and same and torch.equal(logits(net), logits(before)),
        "you changed the network that you were given: work on copy.deepcopy(net)",
    )
    try:
        given = logits(got)
    except Exception as error:
        raise Mistake(f"the network that you return stops with {type(error).__name__}: {error}") from error

    def like(other):
        return near(given, array(other), 1e-4)

    require(not like(logits(before)), "the network answers as it did: its channel attention still does something")
    for depths in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
        left = ", ".join(str(4 + i) for i in range(3) if i not in depths)
        some = like(logits(silenced(net, depths)))
        require(not some, f"all three depths count: there is attention left at depth {left}")
    both = like(logits(silenced(net, beta=True)))
    require(not both, "you switched off the spatial attention (beta) as well: which one mattered?")
    require(like(wanted), "its answers are not those of the given network with alpha = 0: something else changed")
