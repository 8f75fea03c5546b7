"""Answers to the exercises of chapter 7, right and wrong; test_exercises.py runs them."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from mifad_lite import geometry


def stub(*_):
    return ...


def cosface(z_of, reduction="mean"):
    """An answer whose logits are z_of(cosines, one_hot, s, m)."""

    def loss(cosines, labels, s, m):
        return F.cross_entropy(z_of(cosines, F.one_hot(labels, 3), s, m), labels, reduction=reduction)

    return loss


def gradient(theta, true, s, m):
    return geometry.gradient(theta, true, s, m=m)


def without_margin_in_the_sine(theta, true, s, m):
    p = geometry.probabilities(geometry.logits(theta, true, s, m=m))
    return s * (np.eye(3)[true] - p) * np.sin(theta)


def pull_of_the_true_class_alone(theta, true, s, m):
    return gradient(theta, true, s, m) * np.eye(3)[true]


def autograd(theta, true, s, m):
    t = torch.tensor(theta, requires_grad=True)
    F.cross_entropy(s * torch.cos(t + m * F.one_hot(torch.tensor(true), 3))[None], torch.tensor([true])).backward()
    return t.grad


def largest_margin(k, e):
    return geometry.simplex_gap(k) if e >= k - 1 else 2 * math.pi / k


def rare(power):
    return lambda counts, largest: [largest * (min(counts) / n) ** power for n in counts]


CASES = {
    "ex-boundary-norms": {
        "right": [
            lambda n1, n2, gap: math.atan2(n1 - n2 * math.cos(gap), n2 * math.sin(gap)),
            lambda n1, n2, gap: geometry.region((0, gap), 0, s=np.array([n1, n2]))[1],
        ],
        "stub": stub,
        "wrong": {
            "lengths of the class weights are forgotten": lambda n1, n2, gap: gap / 2,
            "two lengths are exchanged": lambda n1, n2, gap: math.atan2(n2 - n1 * math.cos(gap), n1 * math.sin(gap)),
            "is in degrees": lambda n1, n2, gap: math.degrees(
                math.atan2(n1 - n2 * math.cos(gap), n2 * math.sin(gap)),
            ),
            "expected 0.6000, got 0.1000": lambda n1, n2, gap: 0.1,
        },
    },
    "ex-cosface": {
        "right": [cosface(lambda c, t, s, m: s * (c - m * t))],
        "stub": stub,
        "wrong": {
            "margin is missing": cosface(lambda c, t, s, m: s * c),
            "makes the task easier": cosface(lambda c, t, s, m: s * (c - m * (1 - t))),
            "after the scale": cosface(lambda c, t, s, m: s * c - m * t),
            "added to the angle": cosface(lambda c, t, s, m: s * torch.cos(torch.acos(c) + m * t)),
            "are summed": cosface(lambda c, t, s, m: s * (c - m * t), "sum"),
        },
    },
    "ex-margin-gradient": {
        "right": [gradient, autograd],
        "stub": stub,
        "wrong": {
            "m is missing": lambda theta, true, s, m: gradient(theta, true, s, 0.0),
            "sign is turned round": lambda theta, true, s, m: -gradient(theta, true, s, m),
            "factor s is missing": lambda theta, true, s, m: gradient(theta, true, s, m) / s,
            "m is not in the sine": without_margin_in_the_sine,
            "rivals' entries are wrong": pull_of_the_true_class_alone,
            "one number for each angle": lambda theta, true, s, m: gradient(theta, true, s, m)[true],
        },
    },
    "ex-seam": {
        "right": [lambda m: 1 - math.cos(m) - m * math.sin(m)],
        "stub": stub,
        "wrong": {
            "sign is turned round": lambda m: math.cos(m) + m * math.sin(m) - 1,
            "m sin(m) is missing": lambda m: 1 - math.cos(m),
            "not where theta = pi": lambda m: -1 - m * math.sin(m) + math.cos(m),
            "do not meet": lambda m: 0.0,
        },
    },
    "ex-largest-margin": {
        "right": [largest_margin],
        "stub": stub,
        "wrong": {
            "way to the bisector": lambda k, e: largest_margin(k, e) / 2,
            "more room than on a circle": lambda k, e: math.pi if k == 2 else 2 * math.pi / k,
            "simplex does not fit": lambda k, e: geometry.simplex_gap(k),
            "is in degrees": lambda k, e: math.degrees(largest_margin(k, e)),
            "sign is lost": lambda k, e: largest_margin(k, e) if e < 3 else math.acos(1 / (k - 1)),
        },
    },
    "ex-rare-margin": {
        "right": [rare(0.25)],
        "stub": stub,
        "wrong": {
            "rare one needs it": rare(-0.25),
            "that is the square root": rare(0.5),
            "that is 1/n": rare(1.0),
            "the largest margin is": lambda counts, largest: np.array(counts) ** -0.25,
        },
    },
}
