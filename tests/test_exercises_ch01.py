"""Answers to the exercises of chapter 1, right and wrong, for test_exercises.py."""

import numpy as np
import torch


def stub(*args): ...


def always_by_loop(labels, answer):
    names = sorted(set(labels.tolist()))
    return labels.tolist().count(answer) / len(labels), (answer in names) / len(names)


def rates_by_loop(counts):
    return np.array([[v / max(1, sum(row)) for v in row] for row in counts.tolist()])


def by_heart_from_the_mix(accuracy, n, twins):
    t = twins / n
    return (accuracy - t) / (1 - t)


def groups(images, labels, key=lambda image: image.numpy().tobytes()):
    found = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        found.setdefault(key(image), []).append(label)
    return found.values()


def ceiling_by_sorting(images, labels):
    _, group = np.unique(images.flatten(1).numpy(), axis=0, return_inverse=True)
    table = np.zeros((len(labels), 7), int)
    np.add.at(table, (group.ravel(), labels.numpy()), 1)
    return table.max(1).sum() / len(labels)


def ceiling_conflicts_lost(images, labels):
    return sum(len(g) for g in groups(images, labels) if len(set(g)) == 1) / len(labels)


def ceiling_one_lost(images, labels):
    return 1 - sum(len(set(g)) > 1 for g in groups(images, labels)) / len(labels)


def ceiling_by_mean(images, labels):
    found = groups(images, labels, lambda image: image.double().mean().item())
    return sum(max(map(g.count, g)) for g in found) / len(labels)


def ceiling_distinct(images, labels):
    found = groups(images, labels)
    return sum(len(set(g)) == 1 for g in found) / len(found)


def invert_by_search(measured, w):
    low, high = 0.0, 1.5
    for _ in range(60):
        a = (low + high) / 2
        low, high = (a, high) if (1 - w) * a + w * (1 - a) / 6 < measured else (low, a)
    return low


def logistic(train_images, train_labels, test_images, steps=60):
    x, y = ((v.double().flatten(1) / 255 - 0.5) for v in (train_images, test_images))
    weight = torch.zeros(x.shape[1], 7, dtype=torch.float64)
    target = torch.nn.functional.one_hot(train_labels, 7).double()
    for _ in range(steps):
        weight -= 0.02 * x.T @ ((x @ weight).softmax(1) - target) / len(x)
    return (y @ weight).argmax(1)


def mean_classes(train_images, train_labels, test_images):
    x = train_images.double().flatten(1)
    means = torch.stack([x[train_labels == c].mean(0) for c in range(7)])
    return torch.cdist(test_images.double().flatten(1), means)


def neighbour(train_images, train_labels, test_images):
    return train_labels[torch.cdist(test_images.double().flatten(1), train_images.double().flatten(1)).argmin(1)]


CASES = {
    "ex-always-happy": {
        "right": [
            always_by_loop,
            lambda y, a: ((y == a).double().mean(), (y == a).any() / len(y.unique())),
        ],
        "stub": stub,
        "wrong": {
            "its class mean is 0": lambda y, a: ((y == a).double().mean(), 1 / len(y.unique())),
            "both are 0, you give": lambda y, a: ((y == a).double().mean(), 1 / len({*y.tolist(), a})),
            "average over classes, not images": lambda y, a: ((y == a).double().mean(),) * 2,
            "although only three occur": lambda y, a: ((y == a).double().mean(), 1 / 7),
            "return fractions, from 0 to 1": lambda y, a: (100 * (y == a).double().mean(), 100 / 3),
            "instead of `answer`": lambda y, a: ((y == y.mode().values).double().mean(), 1 / 3),
        },
    },
    "ex-row-rates": {
        "right": [rates_by_loop, lambda n: (n / n.sum(1, keepdim=True)).nan_to_num()],
        "stub": stub,
        "wrong": {
            "gives nan": lambda n: n / n.sum(1, keepdim=True),
            "that is precision": lambda n: n / n.sum(0),
            "number of all images": lambda n: n / n.sum(),
            "keep their dimension": lambda n: n / n.sum(1).clamp(min=1),
            "transposed": lambda n: (n / n.sum(1, keepdim=True).clamp(min=1)).T,
            "return fractions, from 0 to 1": lambda n: 100 * n / n.sum(1, keepdim=True).clamp(min=1),
        },
    },
    "ex-by-heart": {
        "right": [by_heart_from_the_mix],
        "stub": stub,
        "wrong": {
            "still count among the images": lambda a, n, t: a - t / n,
            "their hits still count": lambda a, n, t: a * n / (n - t),
            "number of the other images": lambda a, n, t: a * n - t,
            "as hard as the rest": lambda a, n, t: a * (n - t) / n,
        },
    },
    "ex-ceiling": {
        "right": [ceiling_by_sorting],
        "stub": stub,
        "wrong": {
            "the same answer every time": lambda images, labels: 1.0,
            "its commonest label can be right": ceiling_conflicts_lost,
            "four of its five labels must be wrong": ceiling_one_lost,
            "compare every pixel": ceiling_by_mean,
            "share of distinct images": ceiling_distinct,
            "count its copies with the best label": lambda x, y: len(groups(x, y)) / len(y),
        },
    },
    "ex-true-accuracy": {
        "right": [invert_by_search],
        "stub": stub,
        "wrong": {
            "keep the term w (1 - a) / 6": lambda p, w: p / (1 - w),
            "adds the noise again": lambda p, w: (1 - w) * p + w * (1 - p) / 6,
            "it also depends on the accuracy": lambda p, w: p + w,
            "not of seven": lambda p, w: (p - w / 7) / (1 - w - w / 7),
        },
    },
    "ex-beat-the-mean": {
        "right": [logistic],
        "stub": stub,
        "wrong": {
            "return the class with the highest one": lambda *faces: -mean_classes(*faces),
            "ten points more are asked for": lambda *faces: mean_classes(*faces).argmin(1),
            "it only remembers": neighbour,
            "off by a constant": lambda *faces: logistic(*faces) + 1,
        },
    },
}
