"""Right answers, stubs and classic mistakes for the exercises of chapter 8."""

import math

import torch
import torch.nn.functional as F

from mifad_lite import CenterLoss, IslandLoss


def by_autograd(x, centers, labels):
    loss = CenterLoss(*centers.shape).double()
    loss.centers.data = centers.double()
    x = x.clone().requires_grad_()
    return torch.autograd.grad((loss(x, labels)), x)[0]


def by_package(centers):
    loss = IslandLoss(*centers.shape, pairwise_weight=1.0)
    loss.centers.data = centers.float()
    return loss(loss.centers, torch.arange(len(centers)))  # every face on its center: no pull


def pairs_once(centers):
    unit = F.normalize(centers, dim=1)
    return torch.triu(unit @ unit.T + 1, 1).sum()


def with_diagonal(centers):
    unit = F.normalize(centers, dim=1)
    return (unit @ unit.T + 1).sum()


def dots(centers):
    gram = centers @ centers.T + 1
    return gram.sum() - gram.diagonal().sum()


def without_one(centers):
    unit = F.normalize(centers, dim=1)
    return unit.sum(0).square().sum() - len(centers)


def triangles_and_pairs(K):
    angles = [2 * math.pi * i / 3 for i in range(3)] if K % 2 else []
    return torch.tensor(angles + [0.0, math.pi] * ((K - len(angles)) // 2))


def rule(x, centers, labels, one=1.0, sign=1.0):
    out = torch.zeros_like(centers)
    for j in range(len(centers)):
        own = x[labels == j]
        out[j] = sign * (centers[j] - own).sum(0) / (one + len(own))
    return out


CASES = {
    "ex-center-gradient": {
        "right": [by_autograd],
        "stub": lambda x, centers, labels: ...,
        "wrong": {
            "mean is missing": lambda x, centers, labels: x - centers[labels],
            "sign is turned": lambda x, centers, labels: (centers[labels] - x) / len(x),
            "twice too long": lambda x, centers, labels: 2 * (x - centers[labels]) / len(x),
        },
    },
    "ex-push": {
        "right": [by_package],
        "stub": lambda centers: None,
        "wrong": {
            "counted once": pairs_once,
            "diagonal is in": with_diagonal,
            "dot products": dots,
            "+ 1 of every pair": without_one,
        },
    },
    "ex-island-minimum": {
        "right": [triangles_and_pairs],
        "stub": lambda K: ...,
        "wrong": {
            "no two classes share": lambda K: torch.arange(K) * 2 * math.pi / K,
            "do not sum to zero": lambda K: torch.zeros(K),
            "there are": lambda K: torch.tensor([0.0, math.pi]),
        },
    },
    "ex-center-update": {
        "right": [rule],
        "stub": lambda x, centers, labels: None,
        "wrong": {
            "0/0": lambda x, centers, labels: rule(x, centers, labels, one=0.0),
            "not the rule": lambda x, centers, labels: rule(x, centers, labels, one=0.0).nan_to_num()
            * torch.bincount(labels, minlength=len(centers))[:, None] / len(x),
            "sign is turned": lambda x, centers, labels: rule(x, centers, labels, sign=-1.0),
        },
    },
}
