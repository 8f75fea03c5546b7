"""Chapter 10: right answers, stubs and classic mistakes for its exercises. test_exercises.py runs them."""

import math

import numpy as np
import torch
from scipy.optimize import brentq
from sklearn.metrics import precision_recall_fscore_support


def by_sklearn(counts):
    true, predicted = [], []
    for (i, j), n in np.ndenumerate(counts.numpy()):
        true += [i] * n
        predicted += [j] * n
    found = precision_recall_fscore_support(true, predicted, labels=range(len(counts)), zero_division=np.nan)
    return found[0], found[1]


def divided(counts):
    hits = counts.diagonal()
    return hits / counts.sum(0), hits / counts.sum(1)


def ece(confidence, hits, bins, sort=True, signed=False, weigh=True):
    order = confidence.argsort() if sort else torch.arange(len(confidence))
    error = 0
    for part in torch.tensor_split(order, bins):
        gap = hits[part].double().mean() - confidence[part].mean()
        error += (gap if signed else gap.abs()) * (len(part) / len(order) if weigh else 1)
    return error


def equal_width(confidence, hits, bins):
    which = (confidence * bins).ceil().long()
    inside = [which == b for b in range(1, bins + 1)]
    return sum(b.double().mean() * (hits[b].double().mean() - confidence[b].mean()).abs() for b in inside if b.any())


def largest_gap(confidence, hits, bins):
    parts = torch.tensor_split(confidence.argsort(), bins)
    return max((hits[p].double().mean() - confidence[p].mean()).abs() for p in parts)


def solved(p, classes):
    """The scale by root finding, with the softmax written out."""

    def excess(s):
        own = math.exp(s)
        return own / (own + (classes - 1) * math.exp(-s / (classes - 1))) - p

    return brentq(excess, 0, 50, xtol=1e-12)


def curve(probability, x, importance, steps, fill=None, descending=True, only=False, first=0, copy=True):
    order = importance.flatten().argsort(descending=descending)
    fill = x.mean() if fill is None else fill
    y, values = x.clone() if copy else x, []
    for k in range(first, steps + 1):
        if only:
            y = x.clone()
        start = (k - 1) * len(order) // steps if only and k else 0
        y.view(-1)[order[start : k * len(order) // steps]] = fill
        values.append(probability(y[None]).item())
    return values


def one_batch(probability, x, importance, steps):
    """All steps as one batch, by ranks."""
    rank = importance.flatten().argsort(descending=True).argsort().view_as(x[0])
    gone = rank < (torch.arange(steps + 1) * rank.numel() // steps)[:, None, None, None]
    return probability(torch.where(gone, x.mean(), x))


def blind(confidence, hits, shifted):
    threshold = confidence.sort().values[(~hits).sum()]
    return (shifted >= threshold).double().mean()


CASES = {
    "ex-precision": {
        "right": [divided, by_sklearn],
        "stub": lambda counts: ...,
        "wrong": {
            "the two are swapped": lambda counts: divided(counts)[::-1],
            "divided by all images": lambda counts: (counts.diagonal() / counts.sum(),) * 2,
            "not percent": lambda counts: [100 * part for part in divided(counts)],
            "unknown (nan), not 0": lambda counts: [part.nan_to_num() for part in divided(counts)],
            "recall is off": lambda counts: (divided(counts)[0],) * 2,
        },
    },
    "ex-equal-mass": {
        "right": [ece, lambda c, h, b: float(ece(c, h, b))],
        "stub": lambda confidence, hits, bins: None,
        "wrong": {
            "not sorted": lambda c, h, b: ece(c, h, b, sort=False),
            "equal width": equal_width,
            "cancel": lambda c, h, b: ece(c, h, b, signed=True),
            "without their weights": lambda c, h, b: ece(c, h, b, weigh=False),
            "largest gap": largest_gap,
        },
    },
    "ex-sharpest": {
        "right": [solved, lambda p, k: (1 - 1 / k) * (math.log(p) - math.log1p(-p) + math.log(k - 1))],
        "stub": lambda p, classes: ...,
        "wrong": {
            "not at 90 degrees": lambda p, k: math.log(p * (k - 1) / (1 - p)),
            "only two directions can be opposite": lambda p, k: math.log(p * (k - 1) / (1 - p)) / 2,
            "not over one": lambda p, k: math.log(p / (1 - p)) * (k - 1) / k,
            "the scale is": lambda p, k: 16.0,
        },
    },
    "ex-deletion": {
        "right": [curve, one_batch],
        "stub": lambda probability, x, importance, steps: ...,
        "wrong": {
            "least important": lambda *a: curve(*a, descending=False),
            "black": lambda *a: curve(*a, fill=0.0),
            "back": lambda *a: curve(*a, only=True),
            "4 steps give 5 numbers": lambda *a: curve(*a, first=1),
            "work on a copy": lambda *a: curve(*a, copy=False),
        },
    },
    "ex-blind": {
        "right": [blind, lambda c, h, s: (s > c.quantile(1 - h.double().mean())).double().mean().item()],
        "stub": lambda confidence, hits, shifted: None,
        "wrong": {
            "mean confidence": lambda c, h, s: s.mean(),
            "set on the shifted set": lambda c, h, s: blind(s, h, s),
            "quantile is of 1 - accuracy": lambda c, h, s: (s > c.quantile(h.double().mean())).double().mean(),
            "share below": lambda c, h, s: 1 - blind(c, h, s),
        },
    },
}
