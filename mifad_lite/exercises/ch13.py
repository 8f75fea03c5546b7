"""Checks of chapter 13: lines, walls, swapped neurons, soups, flat ground, rewritten norms, the luck of the best."""

import math

import torch
from torch import Tensor, nn

from . import call, exercise, require


@exercise("ex-line")
def line(answer):
    a = {"weight": torch.tensor([[1.0, -2.0]]), "norm.num_batches_tracked": torch.tensor(10)}
    b = {"weight": torch.tensor([[3.0, 6.0]]), "norm.num_batches_tracked": torch.tensor(21)}
    kept = [{name: tensor.clone() for name, tensor in net.items()} for net in (a, b)]
    for share in (0.25, 0.0, 1.0):
        found = call(answer, a, b, share)
        require(isinstance(found, dict) and set(found) == set(a), "return a dictionary with the names of both networks")
        same = all(torch.equal(net[k], old[k]) for net, old in zip((a, b), kept, strict=True) for k in old)
        require(same, "a network was changed in place, and the next place on the line would start from it")
        weight, wanted = found["weight"], a["weight"] + share * (b["weight"] - a["weight"])
        swapped = b["weight"] + share * (a["weight"] - b["weight"])
        require(isinstance(weight, Tensor) and weight.shape == wanted.shape, "a tensor has another shape than before")
        require(not torch.allclose(weight, swapped), "share belongs to b: at share 0 the result is a")
        require(torch.allclose(weight, wanted), f"at share {share} the weights are not (1 - share) a + share b")
        count = torch.as_tensor(found["norm.num_batches_tracked"])
        require(not count.is_floating_point(), "a counter became a fraction: keep b's whole numbers as they are")
        require(count == 21, "a counter was averaged: keep b's whole numbers as they are")


@exercise("ex-wall")
def wall(answer):
    for hits in ([0.7, 0.2, 0.6], [0.5, 0.6, 0.7, 0.9], [0.9, 0.5, 0.45, 0.4, 0.1], [0.64, 0.64]):
        found = float(call(answer, list(hits)))
        last = len(hits) - 1
        chord = [(1 - i / last) * hits[0] + i / last * hits[-1] for i in range(last + 1)]
        wanted = max(c - h for c, h in zip(chord, hits, strict=True))
        for name, far in (
            ("the better end", max(hits[0], hits[-1]) - min(hits)),
            ("the worse end", min(hits[0], hits[-1]) - min(hits)),
            ("the mean of the ends", (hits[0] + hits[-1]) / 2 - min(hits)),
        ):
            if abs(far - wanted) > 1e-6:
                require(abs(found - far) > 1e-9, f"this is measured from {name}, not from the line between both")
        require(abs(wanted) < 1e-6 or abs(found + wanted) > 1e-9, "the sign is turned: what is lost counts as positive")
        require(abs(found - wanted) < 1e-9, f"for the accuracies {hits} the wall is {wanted:.3f}")


@exercise("ex-swap")
def swap(answer):
    w, b, v = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, -2.0]]), torch.tensor([0.1, -0.3, 0.7]), torch.eye(3)[:2] + 1
    x = torch.tensor([[0.3, -1.0], [2.0, 1.0], [-0.5, 0.25]])

    def compute(w, b, v):
        return (x @ w.T + b).relu() @ v.T

    for order in ([2, 0, 1], [1, 0, 2]):
        found = call(answer, w.clone(), b.clone(), v.clone(), torch.tensor(order))
        require(isinstance(found, tuple | list) and len(found) == 3, "return three tensors: w, b and v")
        new_w, new_b, new_v = found
        require(all(a.shape == b.shape for a, b in zip(found, (w, b, v), strict=True)), "a tensor has another shape")
        back = torch.argsort(torch.tensor(order)).tolist()
        if order != back:
            require(not torch.equal(new_w, w[back]), "the order was turned round: neuron i of the new one is order[i]")
        require(torch.equal(new_w, w[order]), "the rows of w, one for each neuron, are not in the new order")
        require(torch.equal(new_b, b[order]), "b has one number for each neuron and moves with it")
        require(not torch.equal(new_v, v), "v still reads the neurons in the old order: its columns move along")
        require(torch.allclose(compute(*found), compute(w, b, v)), "the network computes something else now")


@exercise("ex-soup")
def soup(answer):
    tables = (
        # accuracy of the average of each set, asked in the order of the networks alone
        {"a": 70, "b": 69, "c": 68, "ab": 68, "ac": 71, "abc": 72, "bc": 73},
        {"a": 70, "b": 69, "c": 68, "ab": 70, "ac": 60, "abc": 69.5, "bc": 75},
        {"a": 70, "b": 69, "c": 68, "ab": 69.2, "ac": 69.9, "abc": 74, "bc": 69},
    )
    for table, wanted in zip(tables, ("ac", "ab", "a"), strict=True):
        asked = []

        def score(names, table=table, asked=asked):
            key = "".join(sorted(names))
            asked.append(key)
            return table[key]

        found = call(answer, score, ["b", "c", "a"])
        require(isinstance(found, tuple | list | set), "return the names that are in the soup")
        key = "".join(sorted(found))
        require(key != "abc", "everything went in: keep a network only if the soup with it is not worse")
        require(key[:1] == "a", "the soup does not begin with the network that is best alone")
        if wanted == "ab":
            require(key != "a", "a network that leaves the accuracy as it is stays in the soup")
        if wanted == "a":
            require(key != "ab", "b alone is no reason: compare the soup with it and the soup without it")
        require(key == wanted, f"for the accuracies {table} the soup is {', '.join(wanted)}")
        require("bc" not in asked, "a greedy soup never asks for b and c without a")


@exercise("ex-flat-step")
def flat_step(answer):
    bend = torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)  # of the bowl sum(bend w^2) / 2
    asked = []

    def slope(w):
        asked.append(w.clone())
        return bend * w

    for start, radius, rate in (
        ([3.0, 1.0, -2.0], 0.5, 0.1),
        ([0.3, -0.2, 4.0], 2.0, 0.05),
        ([1.0, 1.0, 1.0], 0.0, 0.2),
    ):
        w = torch.tensor(start, dtype=torch.float64)
        kept = w.clone()
        found = call(answer, w, slope, radius, rate)
        require(isinstance(found, Tensor) and found.shape == w.shape, "return w after the step, as one tensor")
        require(torch.equal(w, kept), "w was changed in place: make a new tensor")
        g = bend * kept
        up = radius * g / g.norm()

        def close(gradient, kept=kept, found=found, rate=rate):
            return torch.allclose(found, kept - rate * gradient, rtol=1e-9, atol=1e-12)

        if radius:
            require(not close(g), "this is a plain step: take the gradient up the slope, not at w")
            require(not close(bend * (kept - up)), "the gradient is taken down the slope: the rise is up")
            require(
                not close(bend * (kept + radius * g)),
                "the way up is as long as the radius: divide g by its length",
            )
            above = kept + up - rate * bend * (kept + up)
            require(not torch.allclose(found, above, rtol=1e-9), "the step begins at w, and not at the place above it")
        require(close(bend * (kept + up)), f"the step from {start} with radius {radius:g} ends elsewhere")
    level = call(answer, torch.zeros(3, dtype=torch.float64), slope, 0.5, 0.1)
    require(not level.isnan().any(), "on level ground this is not a number: 0/0")
    require(torch.equal(level, torch.zeros(3, dtype=torch.float64)), "on level ground stay where you are")


@exercise("ex-rewrite")
def rewrite(answer):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 6, 6, generator=draw)
    for bias in (False, True):
        for factor in (3.0, 0.5):
            conv, norm = nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d(4, eps=1e-9)
            with torch.no_grad():
                for t in (*conv.parameters(), *norm.parameters(), norm.running_mean):
                    t.copy_(torch.randn(t.shape, generator=draw))
                norm.running_var.copy_(torch.rand(4, generator=draw) + 0.5)
            conv.eval(), norm.eval()
            old, mean, var = conv.weight.detach().clone(), norm.running_mean.clone(), norm.running_var.clone()
            scale, shift = norm.weight.detach().clone(), norm.bias.detach().clone()
            with torch.no_grad():
                given, wanted = conv(x), norm(conv(x))
            found = call(answer, conv, norm, factor)
            both = isinstance(found, tuple | list) and len(found) == 2 and found[0] is conv and found[1] is norm
            require(both, "change the convolution and the norm in place, and return both")
            require(
                torch.allclose(conv.weight, factor * old, rtol=1e-5), "the convolution's weight did not grow by factor"
            )
            kept = torch.equal(norm.weight, scale) and torch.equal(norm.bias, shift)
            require(kept, "leave gamma and beta alone: only what the norm remembers changes")
            with torch.no_grad():
                message = "a convolution with a bias does not give factor times as much: it grows with the weight"
                require(torch.allclose(conv(x), factor * given, rtol=1e-4, atol=1e-5), message)
            require(not torch.allclose(norm.running_mean, mean), "the mean of what the norm is given has changed")
            once = torch.allclose(norm.running_var, factor * var)
            require(not once, "a variance is a mean of squares: it does not grow by the factor itself")
            require(not torch.allclose(norm.running_var, var), "the variance of what the norm is given has changed")
            with torch.no_grad():
                same = torch.allclose(norm(conv(x)), wanted, rtol=1e-4, atol=1e-4)
            require(same, f"with factor {factor:g} the output is another one")


@exercise("ex-best-of")
def best_of(answer):
    known = {1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi)}  # exact
    step = 1e-3
    grid = [-9 + step * i for i in range(18_001)]
    below = [0.5 * math.erfc(-z / math.sqrt(2)) for z in grid]

    def mean_of_best(n):  # of the maximum: what lies above 0 minus what lies below
        return step * sum((z > 0) - p**n for z, p in zip(grid, below, strict=True))

    for n, spread in ((2, 1.0), (1, 3.0), (3, 2.0), (36, 12.0), (10, 0.5)):
        found = float(call(answer, n, spread))
        one = known.get(n, mean_of_best(n))
        require(spread == 1 or n == 1 or abs(found - one) > 2e-3, "spread is missing: this is in standard deviations")
        limit = spread * math.sqrt(2 * math.log(n))
        require(n < 2 or abs(found - limit) > 1e-6, "sqrt(2 log n) is for very many; for a few it is too large")
        require(abs(found) > 1e-9 or n == 1, "the mean of one is zero, but the mean of the best of several is above it")
        require(
            abs(found - one * spread) < 2e-2 * spread,
            f"the best of {n} with a spread of {spread:g} is {one * spread:.2f} above the mean, on average",
        )
