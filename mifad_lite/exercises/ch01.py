"""Checks of chapter 1: accuracy, confusion matrix, twins, label noise."""

import math

import numpy as np
import torch

from ..synthetic import synthetic_faces
from . import call, exercise, require


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=1e-6)


@exercise("ex-always-happy")
def _always(answer):
    labels = torch.tensor([3] * 6 + [0] * 3 + [1])
    for said in (3, 0):
        got = call(answer, labels, said)
        require(len(got) == 2, "return two fractions: the accuracy, then the class mean")
        accuracy, mean = (float(v) for v in got)
        right = (labels == said).sum().item() / 10
        require(not _close(accuracy, 100 * right), "these are percent: return fractions, from 0 to 1")
        require(said == 3 or not _close(accuracy, 0.6), "it takes the largest class instead of `answer`")
        require(_close(accuracy, right), f"the accuracy is {accuracy:.3f}, but {right:.1f} of the labels are hit")
        require(not _close(mean, accuracy), "the class mean is the accuracy again: average over classes, not images")
        require(not _close(mean, 1 / 7), "the mean runs over seven classes, although only three occur in the labels")
        require(_close(mean, 1 / 3), f"the class mean is {mean:.3f}: one class of three is all right, two all wrong")
    accuracy, mean = (float(v) for v in call(answer, labels, 5))
    require(
        not _close(mean, 1 / 3), "an answer that does not occur in the labels makes no class right: its class mean is 0"
    )
    zero = _close(accuracy, 0) and _close(mean, 0)
    require(zero, f"where no label is the answer both are 0, you give {accuracy:.3f} and {mean:.3f}")


@exercise("ex-row-rates")
def _rates(answer):
    counts = torch.tensor([[6, 2, 2], [4, 72, 4], [0, 0, 0]])
    got = torch.as_tensor(call(answer, counts.clone())).double()
    require(got.shape == (3, 3), f"expected a table of 3 x 3, got the shape {tuple(got.shape)}")
    require(not got.isnan().any(), "a class without images gives nan: its row must be zeros")
    n, rows, columns = counts.double(), counts.sum(1, keepdim=True), counts.sum(0)
    right = n / rows.clamp(min=1)
    require(
        not torch.allclose(got, n / columns), "the columns add up to 1, that is precision: divide rows by their sums"
    )
    require(not torch.allclose(got, n / n.sum()), "this divides by the number of all images: use each row's sum")
    require(not torch.allclose(got, n / rows.clamp(min=1).flatten()), "row sums divide columns: keep their dimension")
    require(not torch.allclose(got, right.T), "the table is transposed: rows are the true class")
    require(not torch.allclose(got, 100 * right), "these are percent: return fractions, from 0 to 1")
    require(torch.allclose(got, right), f"row 0 should be 0.6, 0.2, 0.2, got {got[0].tolist()}")


@exercise("ex-by-heart")
def _by_heart(answer):
    for a, n, twins in ((0.74, 3589, 288), (0.5, 1000, 200)):
        got, hits = float(call(answer, a, n, twins)), a * n - twins
        require(not _close(got, hits), "these are hits: divide by the number of the other images")
        require(not _close(got, hits / n), "the twins are gone from the hits, but still count among the images")
        require(not _close(got, a - twins / n * a), "this takes twins to be as hard as the rest: they are all right")
        require(not _close(got, a * n / (n - twins)), "the twins are gone from the images, but their hits still count")
        require(_close(got, hits / (n - twins)), f"of {n - twins} other images {hits:.0f} are right, not {got:.1%}")


@exercise("ex-ceiling")
def _ceiling(answer):
    rng = np.random.default_rng(0)
    six = torch.from_numpy(rng.integers(0, 256, (6, 1, 48, 48), dtype=np.uint8))
    six[5] = six[4].flip(2)  # same mean, same histogram, another image
    images = six[[0, 0, 0, 1, 2, 2, 3, 3, 4, 5]]
    labels = torch.tensor([2, 2, 5, 0, 1, 4, 6, 6, 3, 2])
    got = float(call(answer, images, labels))
    require(not _close(got, 1.0), "no image counts as lost: the same image must get the same answer every time")
    require(not _close(got, 0.5), "a group in conflict counts as lost, but its commonest label can be right")
    require(not _close(got, 0.7), "images with the same mean are taken for equal: compare every pixel")
    require(not _close(got, 6 / 10), "each distinct image counts once: count its copies with the best label")
    require(not _close(got, 4 / 6), "this is a share of distinct images: count all images, repeats too")
    require(_close(got, 0.8), f"8 of these 10 images can be right, not {got:.0%}")
    got = float(call(answer, six[[0] * 5], torch.tensor([0, 1, 2, 3, 4])))
    require(not _close(got, 0.8), "a group with five labels loses one image: four of its five labels must be wrong")
    require(_close(got, 0.2), f"five copies with five labels: 1 of 5 can be right, not {got:.0%}")


@exercise("ex-true-accuracy")
def _true_accuracy(answer):
    for a, w in ((0.7, 0.1), (0.9, 0.2), (0.4, 0.3)):
        measured = (1 - w) * a + w * (1 - a) / 6
        got = float(call(answer, measured, w))
        require(not _close(got, (1 - w) * measured + w * (1 - measured) / 6), "this adds the noise again: invert it")
        require(not _close(got, measured / (1 - w)), "an error can fit a wrong label: keep the term w (1 - a) / 6")
        require(not _close(got, measured + w), "the loss is not w: it also depends on the accuracy")
        seven = (measured - w / 7) / (1 - w - w / 7)
        require(not _close(got, seven), "a changed label becomes one of six others, not of seven")
        require(_close(got, a), f"measured {measured:.4f} at w = {w} comes from {a}, not from {got:.4f}")


@exercise("ex-beat-the-mean")
def _beat_the_mean(answer):
    train, test = (synthetic_faces(350, (17, stream), intra=0.3, inter=0.5) for stream in (1, 2))
    got = torch.as_tensor(call(answer, train.images, train.labels, test.images))
    require(got.shape != (350, 7), "these are scores: return the class with the highest one")
    require(got.shape == (350,), f"expected 350 classes, got the shape {tuple(got.shape)}")
    x, y = (faces.images.double().flatten(1) for faces in (train, test))
    means = torch.stack([x[train.labels == c].mean(0) for c in range(7)])
    mean, neighbour = torch.cdist(y, means).argmin(1), train.labels[torch.cdist(y, x).argmin(1)]
    require((got == neighbour).double().mean() < 0.99, "this is the nearest neighbour: it only remembers faces")
    hits, bar = ((p == test.labels).double().mean().item() for p in (got, mean))
    shifted = max(((got + k) % 7 == test.labels).double().mean().item() for k in range(1, 7))
    require(
        shifted < max(hits, bar) + 0.1, "the classes are off by a constant: number them from 0, in the order of CLASSES"
    )
    require(hits >= bar + 0.1, f"right on {hits:.0%}, the nearest mean on {bar:.0%}: ten points more are asked for")
