"""Checks of chapter 10: precision and recall, calibration, the scale's ceiling, deletion curves, blind accuracy."""

import math

import numpy as np
import torch

from . import call, exercise, require

RNG = np.random.default_rng(10)
CONFIDENCE = RNG.uniform(1 / 7, 1, 103) ** 0.5
HITS = RNG.uniform(size=103) < CONFIDENCE**2


def row(values) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).ravel()


def near(value, wanted, tolerance: float = 1e-6) -> bool:
    return np.shape(value) == np.shape(wanted) and bool(np.allclose(value, wanted, atol=tolerance, equal_nan=True))


@exercise("ex-precision")
def precision(answer):
    counts = np.array([[8, 2, 0, 0], [1, 5, 4, 0], [0, 3, 3, 0], [2, 1, 1, 0]])
    found = call(answer, torch.tensor(counts))
    require(len(found) == 2, "return two rows, precision and recall")
    got = [row(part) for part in found]
    hits = np.diag(counts).astype(float)
    with np.errstate(invalid="ignore"):
        by_column, by_row = hits / counts.sum(0), hits / counts.sum(1)
    require(not near(got[0], hits / counts.sum()), "each class is divided by all images, not by its own column or row")
    swapped = near(got[0], by_row) and near(np.nan_to_num(got[1]), np.nan_to_num(by_column))
    require(not swapped, "the two are swapped: precision divides by what was predicted, the column")
    require(not near(got[0], 100 * by_column, 1e-4), "return shares in [0, 1], not percent")
    zero = np.nan_to_num(by_column)
    require(not near(got[0], zero), "the last class is never predicted: its precision is unknown (nan), not 0")
    require(near(got[0], by_column), "precision is off: divide the diagonal by the column sums")
    require(near(got[1], by_row), "recall is off: divide the diagonal by the row sums")


def gaps(confidence: np.ndarray, hits: np.ndarray, parts: list) -> np.ndarray:
    """n_b / N (accuracy - confidence) of each part."""
    return np.array([len(p) / len(hits) * (hits[p].mean() - confidence[p].mean()) for p in parts if len(p)])


@exercise("ex-equal-mass")
def equal_mass(answer):
    order, bins = np.argsort(CONFIDENCE, kind="stable"), 8
    found = float(call(answer, torch.tensor(CONFIDENCE), torch.tensor(HITS), bins))
    parts = np.array_split(order, bins)
    signed = gaps(CONFIDENCE, HITS, parts)
    plain = abs(np.abs(gaps(CONFIDENCE, HITS, np.array_split(np.arange(103), bins))).sum() - found) < 1e-9
    require(not plain, "the images are not sorted by confidence before they are cut into bins")
    width = np.ceil(CONFIDENCE * bins).astype(int)
    equal = gaps(CONFIDENCE, HITS, [np.flatnonzero(width == b) for b in range(1, bins + 1)])
    require(abs(found - np.abs(equal).sum()) > 1e-9, "these bins have equal width: cut so that they hold equally many")
    require(abs(abs(found) - abs(signed.sum())) > 1e-9, "gaps of both signs cancel: take absolute values")
    gap = [abs(HITS[p].mean() - CONFIDENCE[p].mean()) for p in parts]
    require(abs(found - sum(gap)) > 1e-9, "the bins are summed without their weights n_b / N")
    largest = abs(found - max(gap)) < 1e-9
    require(not largest, "this is the largest gap (the maximum calibration error), not the weighted mean")
    require(abs(found - np.abs(signed).sum()) < 2e-3, f"8 bins of equal mass give {np.abs(signed).sum():.4f} here")


@exercise("ex-sharpest")
def ceiling(answer):
    for p, classes in ((0.99, 7), (0.9, 3), (0.6, 2), (0.999, 1000)):
        found = float(call(answer, p, classes))
        odds = math.log(p / (1 - p))
        spread = math.log(p * (classes - 1) / (1 - p))
        right = spread * (classes - 1) / classes
        require(abs(found - spread) > 1e-6, "the other directions are not at 90 degrees: their cosine is -1/(K-1)")
        opposite = classes == 2 or abs(found - spread / 2) > 1e-6
        require(opposite, "only two directions can be opposite: with K classes the other cosines are -1/(K-1), not -1")
        one = classes == 2 or abs(found - odds * (classes - 1) / classes) > 1e-6
        require(one, "the softmax sums over K - 1 other classes, not over one")
        require(abs(found - right) < 1e-6, f"for p = {p}, K = {classes} the scale is {right:.3f}, yours {found:.3f}")


@exercise("ex-deletion")
def deletion(answer):
    x = torch.tensor(RNG.uniform(size=(1, 6, 8)), dtype=torch.float32)
    importance = torch.tensor(RNG.permutation(48).reshape(6, 8), dtype=torch.float32)
    weight = torch.tensor(RNG.uniform(size=(1, 6, 8)), dtype=torch.float32)

    def probability(pictures):  # (B, 1, 6, 8) -> (B,)
        return (pictures.reshape(-1, 1, 6, 8) * weight).mean((1, 2, 3))

    def curve(order, fill, only=False):
        values = []
        for step in range(5):
            y = x.clone().flatten()
            gone = order[12 * (step - 1) : 12 * step] if only and step else order[: 12 * step]
            y[gone] = fill
            values.append(probability(y.reshape(x.shape)).item())
        return np.array(values)

    first, before = importance.flatten().argsort(descending=True), x.clone()
    got = row([float(v) for v in call(answer, probability, x, importance, 4)])
    require(torch.equal(x, before), "you changed the caller's picture: work on a copy (x.clone())")
    mean = x.mean().item()
    require(len(got) == 5, f"4 steps give 5 numbers, the first with nothing deleted; yours has {len(got)}")
    require(not near(got, curve(first.flip(0), mean), 1e-5), "the least important pixels went first: sort descending")
    require(not near(got, curve(first, 0.0), 1e-5), "deleted pixels are black: fill with the picture's mean")
    only = near(got, curve(first, mean, only=True), 1e-5)
    require(not only, "each step brings the pixels of the step before back: deletion adds up")
    require(near(got, curve(first, mean), 1e-5), "after step k the k/steps most important pixels are the mean")


@exercise("ex-blind")
def blind(answer):
    shifted = np.sort(CONFIDENCE * RNG.uniform(0.4, 1, 103))
    found = float(call(answer, torch.tensor(CONFIDENCE), torch.tensor(HITS), torch.tensor(shifted)))
    accuracy = HITS.mean()
    threshold = np.sort(CONFIDENCE)[::-1][HITS.sum() - 1 : HITS.sum() + 1].mean()
    right = (shifted > threshold).mean()
    require(abs(found - shifted.mean()) > 1e-6, "this is the mean confidence: use a threshold that fits the hits")
    require(abs(found - accuracy) > 0.015, "the threshold was set on the shifted set, not on the labelled one")
    low = (shifted > np.quantile(CONFIDENCE, accuracy)).mean()
    require(abs(found - low) > 0.015, "the quantile is of 1 - accuracy: the accuracy's share lies above it")
    require(abs(found - (1 - right)) > 0.015, "this is the share below the threshold: the expected errors")
    require(abs(found - right) < 0.02, f"as many confidences above the threshold as hits: {right:.3f} here")
