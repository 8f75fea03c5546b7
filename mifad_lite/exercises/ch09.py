"""Checks of chapter 9: an interval, a weight average's horizon, balanced accuracy, an order, a sample size."""

import math

import torch

from . import Mistake, call, exercise, require


@exercise("ex-wilson")
def wilson(answer):
    z = 1.959963984540054
    for h, n in ((7, 10), (0, 5), (2400, 3589)):
        found = call(answer, h, n)
        require(len(found) == 2, "return two numbers, the lower and the upper end")
        low, high = found
        p, plain = h / n, z * math.sqrt(h / n * (1 - h / n) / n)
        # Wilson's ends solve (p - x)^2 = z^2 x (1 - x) / n. The tolerance lets z = 1.96 pass, and not 1.95 or 2.
        squares = [((p - x) ** 2, z * z * x * (1 - x) / n) for x in (low, high)]
        right = all(abs(a - b) < 1e-9 + 1e-3 * abs(b) for a, b in squares) and low <= p <= high
        if not right and abs(low - (p - plain)) + abs(high - (p + plain)) < 1e-4:
            raise Mistake("this is the textbook interval p +- z sqrt(p(1-p)/n), not Wilson's: at 0 hits its width is 0")
        require(right or low <= high, "the ends are swapped: return the lower one first")
        require(right, f"for {h} hits of {n} the ends do not solve (p - x)^2 = z^2 x(1-x)/n")


@exercise("ex-ema")
def ema(answer):
    for back, steps in ((1, 200), (0.5, 300), (3, 1000)):
        d = call(answer, back, steps)
        require(abs(d - (1 - 1 / back)) > 1e-9, "the horizon is counted in epochs, but the average moves every step")
        require(abs(d - 1 / (back * steps)) > 1e-9, "this is 1 - d, the weight of the newest step, not the decay")
        require(abs(d - (1 - 1 / (back * steps))) < 1e-9, f"{back} epochs of {steps} steps need a decay of 1 - 1/steps")


@exercise("ex-balanced")
def balanced(answer):
    for counts in ([[8, 2], [1, 1]], [[50, 0, 0], [3, 1, 0], [5, 5, 10]]):
        table = torch.tensor(counts)
        found = float(call(answer, table))
        plain = sum(counts[i][i] for i in range(len(counts))) / sum(map(sum, counts))
        columns = sum(counts[i][i] / sum(row[i] for row in counts) for i in range(len(counts))) / len(counts)
        recall = sum(row[i] / sum(row) for i, row in enumerate(counts)) / len(counts)
        require(abs(found - plain) > 1e-6, "this is the plain accuracy: every image counts the same, not every class")
        require(abs(found - columns) > 1e-6, "this divides by the column sums (precision); the true class is in rows")
        require(abs(found - 100 * recall) > 1e-3, "return a share in [0, 1], not percent")
        require(abs(found - recall) < 1e-6, f"for the counts {counts} the mean of the class accuracies is {recall:.4f}")


@exercise("ex-order")
def order(answer):
    state = torch.random.get_rng_state()
    first = torch.as_tensor(call(answer, 3, 5, 50))
    require(torch.equal(torch.random.get_rng_state(), state), "the global generator was used: dropout needs it too")
    require(sorted(first.tolist()) == list(range(50)), "not a permutation: every face has to come exactly once")
    torch.rand(7)
    require(torch.equal(first, torch.as_tensor(call(answer, 3, 5, 50))), "the same arguments gave another order")
    for seed, epoch, what in ((3, 6, "epoch"), (4, 5, "seed")):
        other = torch.as_tensor(call(answer, seed, epoch, 50))
        require(not torch.equal(first, other), f"another {what} has to give another order")
    clash = torch.equal(torch.as_tensor(call(answer, 0, 1, 50)), torch.as_tensor(call(answer, 1, 0, 50)))
    require(not clash, "seed 0, epoch 1 and seed 1, epoch 0 give one order: seed + epoch mixes the two up")


@exercise("ex-faces-needed")
def faces_needed(answer):
    for p, difference in ((0.7, 0.01), (0.5, 0.0102), (0.9, 0.03)):
        found = call(answer, p, difference)
        one = p * (1 - p) * (1.96 / difference) ** 2
        require(abs(found - one) > 2, "the difference has two variances: both tests are finite")
        require(abs(found - 2 * one / 1.96**2) > 2, "z is missing: this is one standard error, not 1.96")
        require(abs(found - 2 * one / 1e4) > 2, "the difference was taken as percent points; 0.01 is one point")
        require(0 <= found - 2 * one < 1 and found == int(found), "not the smallest whole number that is enough")
