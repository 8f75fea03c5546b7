"""Right answers, stubs and classic mistakes for the exercises of chapter 9."""

import math

import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score


def wilson(h, n):
    found = stats.binomtest(round(h), n).proportion_ci(method="wilson")
    return found.low, found.high


def rounded(h, n, z=1.96):
    p = h / n
    centre = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def textbook(h, n, z=1.959963984540054):
    half = z * math.sqrt(h / n * (1 - h / n) / n)
    return h / n - half, h / n + half


def by_sklearn(counts):
    true, predicted = [], []
    for i, row in enumerate(counts.tolist()):
        for j, n in enumerate(row):
            true += [i] * n
            predicted += [j] * n
    return balanced_accuracy_score(true, predicted)


def seeded(seed, n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def reseeds_globally(seed, epoch, n):
    torch.manual_seed(100_003 * seed + epoch)
    return torch.randperm(n)


calls = iter(range(10_000))

CASES = {
    "ex-wilson": {
        "right": [wilson, rounded],
        "stub": lambda h, n: ...,
        "wrong": {
            "textbook interval": lambda h, n: textbook(h, n, z=1.96),
            "ends are swapped": lambda h, n: wilson(h, n)[::-1],
            "do not solve": lambda h, n: stats.beta.interval(0.95, h + 1, n - h + 1),
        },
    },
    "ex-ema": {
        "right": [lambda back, steps: (back * steps - 1) / (back * steps)],
        "stub": lambda back, steps: None,
        "wrong": {
            "counted in epochs": lambda back, steps: 1 - 1 / back,
            "weight of the newest step": lambda back, steps: 1 / (back * steps),
            "need a decay of": lambda back, steps: math.exp(-2 / (back * steps)),
        },
    },
    "ex-balanced": {
        "right": [by_sklearn],
        "stub": lambda counts: ...,
        "wrong": {
            "plain accuracy": lambda counts: (counts.diagonal().sum() / counts.sum()).item(),
            "column sums": lambda counts: (counts.diagonal() / counts.sum(0)).mean().item(),
            "not percent": lambda counts: 100 * by_sklearn(counts),
        },
    },
    "ex-order": {
        "right": [lambda seed, epoch, n: seeded(1_000 * seed + epoch, n)],
        "stub": lambda seed, epoch, n: None,
        "wrong": {
            "global generator": reseeds_globally,
            "another epoch": lambda seed, epoch, n: seeded(seed, n),
            "not a permutation": lambda seed, epoch, n: seeded(seed + 7 * epoch, n) // 2,
            "gave another order": lambda seed, epoch, n: seeded(next(calls), n),
            "mixes the two up": lambda seed, epoch, n: seeded(seed + epoch, n),
        },
    },
    "ex-faces-needed": {
        "right": [lambda p, d: math.floor(2 * 1.96**2 * p * (1 - p) / d / d) + 1],
        "stub": lambda p, d: ...,
        "wrong": {
            "two variances": lambda p, d: math.ceil(p * (1 - p) * (1.96 / d) ** 2),
            "z is missing": lambda p, d: math.ceil(2 * p * (1 - p) / d**2),
            "percent points": lambda p, d: math.ceil(2 * p * (1 - p) * (1.96 / (100 * d)) ** 2),
            "smallest whole number": lambda p, d: 2 * p * (1 - p) * (1.96 / d) ** 2,
        },
    },
}
