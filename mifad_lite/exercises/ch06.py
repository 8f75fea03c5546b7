"""Checks of chapter 6: the whole network."""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..columns import DEPTH
from ..model import PRESETS, MIFADConfig, MIFADNet
from . import call, exercise, require

BUDGET, LEAST = 180_000, 30_000_000  # of ex-balance: parameters at most, multiply-adds of the columns at least


def array(value) -> np.ndarray:
    return np.asarray(value.detach() if torch.is_tensor(value) else value, dtype=np.float64)


@exercise("ex-tail-count")
def tail_count(answer):
    for c, grid, e in ((10, 2, 24), (16, 1, 32), (48, 3, 128)):
        flat, got = 3 * c * grid**2, call(answer, c, grid, e)
        right = flat * e + 2 * e + 7 * e
        known = {
            3 * c * grid * e + 9 * e: "the grid has grid * grid cells: square it",
            c * grid**2 * e + 9 * e: "three depths are concatenated, you count one",
            flat * e + 7 * e: "the batch norm learns a factor and an offset for each number: 2 E are missing",
            flat * e + 2 * e: "the seven class directions are missing: 7 E",
            right + e: "the embedding has no bias: batch norm would subtract it again",
            right + 2 * e: "running mean and variance are measured, not learned: they are no parameters",
            right + 7: "the class directions have no bias: cosines need none",
            right + e + 7: "neither the embedding nor the class directions have a bias",
        }
        require(got == right, known.get(got, f"for C = {c}, grid {grid}, E = {e} it is {right:,}, you give {got}"))


@exercise("ex-network-sides")
def network_sides(answer):
    for pool_after, size in (((1, 3), 48), ((2, 4), 48), ((), 40), ((1, 2, 3, 4, 5), 50)):
        pools = [sum(p < d for p in pool_after) for d in range(1, 7)]  # before each depth
        right = [size // 2**n for n in pools]
        early = [size // 2 ** sum(p <= d for p in pool_after) for d in range(1, 7)]
        got = call(answer, pool_after, size)
        require(isinstance(got, (list, tuple)) and len(got) == 6, "return a list of six sides, one for each depth")
        got = list(got)
        require(got == right or got != early, "you pool before the depth's map is taken: the pool comes after it")
        require(got == right or got != [size // 4**n for n in pools], "a 2x2 pool halves the side, not quarters it")
        halves = [size / 2**n for n in pools]
        require(got == right or got != halves, "a side is a whole number: a pool drops the odd row, 25 becomes 12")
        up = [size]
        for d in range(1, 6):
            up.append(math.ceil(up[-1] / 2) if d in pool_after else up[-1])
        require(got == right or got != up, "you round up: a 2x2 pool drops the odd row, 25 becomes 12")
        once = [size // 2 if n else size for n in pools]
        require(got == right or got != once, "the pools add up: after two of them the side is a quarter")
        require(got == right, f"pools after {pool_after} of a {size} x {size} picture give {right}, yours {got}")


def tangle() -> nn.Sequential:
    """A small network with all that a count of multiply-adds can trip over."""
    layers = nn.Conv2d(1, 4, (3, 5), stride=2, padding=(1, 2)), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2, padding=1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 6 * 8, 5), nn.Linear(5, 5))


@exercise("ex-layer-macs")
def layer_macs(answer):
    net, x = tangle(), torch.zeros(3, 1, 12, 16)
    conv1, conv2, linear = 4 * 15 * 48, 8 * 2 * 9 * 48, 384 * 5 + 5 * 5
    right = conv1 + conv2 + linear
    known = {
        3 * right: "you count the whole batch: divide by the number of faces",
        conv1 + 2 * conv2 + linear: "with groups a kernel sees only its group's channels: use weight.numel()",
        4 * conv1 + conv2 + linear: "count the places of the output, not of the input: stride 2 leaves a quarter",
        conv1 + conv2: "the linear layers are missing",
        linear: "the convolutions are missing",
        right + 4 * 48 + 8 * 48 + 10: "a bias is added, it is no multiplication",
        right + 4 + 8 + 10: "a bias is added, it is no multiplication: leave it out",
        4 * 15 + 8 * 18 + linear: "these are the weights: a convolution uses each of them at every place",
        2 * right: "a multiply-add is one: you count multiplications and additions",
    }
    got = call(answer, net, x)
    left = sum(len(module._forward_hooks) for module in net.modules())
    require(got == right, known.get(got, f"the check's network has {right:,} multiply-adds for a face, you give {got}"))
    require(not left, f"{left} hooks stay on the network: keep the handles and call remove() on each")


@exercise("ex-fold")
def fold(answer):
    torch.manual_seed(0)
    for bias in (True, False):
        conv, norm = nn.Conv2d(3, 3, 3, padding=1, bias=bias).double(), nn.BatchNorm2d(3, eps=0.05).double().eval()
        with torch.no_grad():
            for values in (norm.weight, norm.running_var):
                values.uniform_(0.5, 2)
            for values in (norm.bias, norm.running_mean):
                values.normal_()
        got = call(answer, conv, norm)
        require(isinstance(got, (tuple, list)) and len(got) == 2, "return the pair (weight, bias)")
        w, b = map(array, got)
        require(w.shape == (3, 3, 3, 3), f"the weight keeps its shape (3, 3, 3, 3), yours is {w.shape}")
        require(b.shape == (3,), f"the bias has one number for each output channel, yours has the shape {b.shape}")
        gamma, beta, mean, var = map(array, (norm.weight, norm.bias, norm.running_mean, norm.running_var))
        own, b0 = array(conv.weight), array(conv.bias) if bias else np.zeros(3)
        scale = gamma / np.sqrt(var + norm.eps)

        def scaled(by, axis=0, own=own):
            return own * by.reshape([-1 if i == axis else 1 for i in range(4)])

        for wrong, message in (
            (scaled(gamma / np.sqrt(var)), "eps is forgotten: the norm divides by sqrt(var + eps)"),
            (scaled(gamma / (var + norm.eps)), "the square root is forgotten: a norm divides by sqrt(var + eps)"),
            (scaled(1 / np.sqrt(var + norm.eps)), "the norm's learned factor (norm.weight) is missing"),
            (scaled(scale, 1), "the factor belongs to the output channel, the first axis of the weight"),
            (own, "the weight is as it was: scale it"),
        ):
            require(not np.allclose(w, wrong), message)
        require(np.allclose(w, scaled(scale)), "the weight is off: multiply each kernel by gamma / sqrt(var + eps)")
        right = (b0 - mean) * scale + beta
        for wrong, message in (
            (b0 * scale + beta, "the running mean is ignored"),
            (b0 - mean * scale + beta, "the convolution's own bias must be scaled too"),
            (-mean * scale + beta, "the convolution's own bias is lost"),
            ((b0 - mean) * scale, "the norm's learned offset (norm.bias) is missing"),
            (b0 - mean + beta, "the bias is not scaled"),
            ((b0 + mean) * scale + beta, "the running mean is added: it has to be subtracted"),
        ):
            require(np.allclose(b, right) or not np.allclose(b, wrong), message)
        require(np.allclose(b, right), "the bias is off: (b - mean) * gamma / sqrt(var + eps) + beta")


def column_work(config: MIFADConfig) -> list[int]:
    """Multiply-adds of the convolutions of each column for one face, with the sides that `config.pool_after` gives."""
    sides = [48 >> sum(pool < depth for pool in config.pool_after) for depth in range(1, DEPTH + 1)]
    kernels = config.kernel_sizes
    return [
        sum(k * k * a * b * side**2 for a, b, side in zip((1, *widths), widths, sides, strict=False))
        for k, widths in zip(kernels, config.column_widths(), strict=True)
    ]


@exercise("ex-balance")
def balance(answer):
    require(isinstance(answer, MIFADConfig), f"give an m.MIFADConfig, not {type(answer).__name__}")
    require(answer.kernel_sizes == (7, 5, 3), f"the kernels are (7, 5, 3), yours {answer.kernel_sizes}")
    widths, work = answer.column_widths(), column_work(answer)
    ratio = max(work) / min(work)
    require(len(set(widths)) > 1, f"all columns have the same widths, so column 7 works {ratio:.1f} times as hard as 3")
    order = work[0] >= work[1] >= work[2] and widths[0][2] > widths[2][2]
    require(not order or ratio < 1.2, "you made the column of the large kernel the wide one: it must be the narrow one")
    require(ratio <= 1.2, f"the busiest column works {ratio:.2f} times as hard as the idlest: 1.2 is allowed")
    require(sum(work) >= LEAST, f"the columns do {sum(work) / 1e6:.1f} million multiply-adds: 30 million is the least")
    parameters = sum(p.numel() for p in MIFADNet(answer).parameters())
    require(parameters <= BUDGET, f"the network has {parameters:,} parameters: {BUDGET:,} is the budget")


def norms_of(net: nn.Module) -> dict[str, nn.Module]:
    return {n: module for n, module in net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}


@exercise("ex-fold-all")
def fold_all(answer):
    torch.manual_seed(0)
    net = MIFADNet(PRESETS["tiny"]).eval()
    with torch.no_grad():
        for norm in norms_of(net).values():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
        for fusion in net.fusions:
            fusion.attention.channel.alpha.fill_(0.3)
            fusion.attention.spatial.beta.fill_(-0.2)
        x = torch.rand(8, 1, 48, 48)
        before, wanted = copy.deepcopy(net.state_dict()), net(x)
        got = call(answer, net)
        require(isinstance(got, nn.Module), f"return a network, not {type(got).__name__}")
        after = net.state_dict()
        same = after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
        require(got is not net and same, "you changed the network that you were given: work on copy.deepcopy(net)")
        require(not got.training, "the copy is in training mode: fold in evaluation mode and leave it there")
        left = norms_of(got)
        for part, words in (("columns", "columns"), ("fusions", "fusions (their last)"), ("norm", "embedding")):
            still = [n for n in left if n.startswith(part) and "attention" not in n]
            require(not still, f"{len(still)} norms are left in the {words}")
        close = torch.allclose(F.softmax(got(x), 1), F.softmax(wanted, 1), atol=1e-3)
        attention = sum("attention" in n for n in left)
        require(attention == 6, f"in the attention a PReLU stands before the norm: keep all 6, not {attention}")
        require(close, "the outputs differ: a norm's scale or offset got lost on the way")
