"""What a network did: accuracy, per class, confusion matrix, intervals, calibration; whole split and without twins."""

import base64
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from .augment import to_float
from .data import CLASSES, FaceSet

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Inside the block the network is in evaluation mode; afterwards each of its modules is as it was."""
    trained = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def predict_logits(
    net: nn.Module, images: Tensor, *, flip: bool = False, bf16: bool = False, batch: int = 256, at_once: int = 1
) -> Tensor:
    """uint8 (N, 1, 48, 48) -> logits (N, classes), float32 on the CPU. `flip` averages with the mirror image.

    at_once: batches that a CPU computes side by side, each with its share of torch's threads. Threads that work on
    batches of their own need not wait for each other after each layer ("inference" in book/results/bench.json).

    Computes in evaluation mode, and leaves the network in the mode that it was in.
    Raises ValueError for floats, and for `batch` or `at_once` below 1.
    """
    if batch < 1 or at_once < 1:
        raise ValueError(f"batch = {batch} and at_once = {at_once}: both must be at least 1")
    device = next(net.parameters()).device

    @torch.inference_mode()  # holds for the thread that calls
    def predict(chunk: Tensor) -> Tensor:
        x = to_float(chunk.to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = net(x).float()
            if flip:
                logits = (logits + net(x.flip(3)).float()) / 2
        return logits.cpu()

    chunks = images.split(batch)
    with evaluating(net):
        if at_once == 1:
            return torch.cat([predict(chunk) for chunk in chunks])
        threads = torch.get_num_threads()
        share = max(1, threads // at_once)
        try:
            with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(share,)) as pool:
                return torch.cat(list(pool.map(predict, chunks)))
        finally:
            torch.set_num_threads(threads)  # for threads that start later


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """sum_i TP_i / N (the paper's equation for accuracy)."""
    return (logits.argmax(1) == labels).double().mean().item()


def confusion_counts(predicted: Tensor, labels: Tensor, classes: int = len(CLASSES)) -> Tensor:
    """n_ij (classes, classes): images of true class i predicted as j. Row i divided by n_i is the paper's CP_ij.

    Raises ValueError for a class that is not from 0 to classes - 1.
    """
    for name, chosen in (("prediction", predicted), ("label", labels)):
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= classes):
            found = f"from {int(chosen.min())} to {int(chosen.max())}"
            raise ValueError(f"{name}s run {found}, and {classes} classes from 0 to {classes - 1}")
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def wilson_interval(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (JASA 1927). Raises ValueError unless 0 <= hits <= n and n > 0."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n}: an interval needs 0 <= hits <= n and n > 0")
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def pack_hits(hits: np.ndarray) -> str:
    """bool (N,) -> base64, one bit each."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpack_hits(text: str, n: int) -> np.ndarray:
    """Undo `pack_hits`: -> bool (N,)."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n).astype(bool)


def score(logits: Tensor, labels: Tensor) -> dict:
    """Everything reported of one set of images: n, hits, accuracy, its interval, per class, confusion counts.

    "right" says by `pack_hits` which answers are right, for paired tests of two records.

    Raises ValueError for a set without images, and for logits that are not finite or not one for each of CLASSES.
    """
    if not len(labels):
        raise ValueError("there are no images to score: this split of the data is empty")
    if logits.shape != (len(labels), len(CLASSES)):
        raise ValueError(f"logits {tuple(logits.shape)} for {len(labels)} labels: score needs {len(CLASSES)} an image")
    if not logits.isfinite().all():
        raise ValueError("some logits are not finite, and no answer follows from them: look at the network's weights")
    predicted = logits.argmax(1)
    counts = confusion_counts(predicted, labels)
    n, hits = len(labels), int(counts.trace())
    recall = (counts.diagonal().double() / counts.sum(1)).tolist()
    return {
        "n": n,
        "hits": hits,
        "accuracy": hits / n,
        "wilson_95": list(wilson_interval(hits, n)),
        "per_class": {c: (r if r == r else None) for c, r in zip(CLASSES, recall, strict=True)},  # None: no such image
        "confusion": counts.tolist(),
        "right": pack_hits((predicted == labels).numpy()),
    }


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 10) -> dict[str, list]:
    """Images sorted by confidence, the largest of their probabilities (N, classes), into `bins` equal bins (low, high].

    Per bin: n, hits, mean confidence and accuracy (None in an empty bin). "edges" are the bins + 1 ends.
    Raises ValueError for no images or fewer than one bin.
    """
    if not len(labels) or bins < 1:
        raise ValueError(f"{len(labels)} images in {bins} bins: reliability needs at least one of each")
    confidence, predicted = probabilities.double().max(1)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1  # a confidence on an edge belongs to the bin below it
    n = torch.bincount(which, minlength=bins)
    hits = torch.bincount(which[predicted == labels], minlength=bins)
    total = torch.zeros(bins, dtype=torch.float64).index_add(0, which, confidence)
    return {
        "edges": [i / bins for i in range(bins + 1)],
        "n": n.tolist(),
        "hits": hits.tolist(),
        "confidence": [t / k if k else None for t, k in zip(total.tolist(), n.tolist(), strict=True)],
        "accuracy": [h / k if k else None for h, k in zip(hits.tolist(), n.tolist(), strict=True)],
    }


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 10) -> float:
    """sum_b n_b / N |accuracy_b - confidence_b| over the bins of `reliability`. Source: Guo et al., ICML 2017."""
    table = reliability(probabilities, labels, bins)
    rows = zip(table["n"], table["accuracy"], table["confidence"], strict=True)
    return sum(n * abs(a - c) for n, a, c in rows if n) / len(labels)


def fit_temperature(logits: Tensor, labels: Tensor, low: float = 0.01, high: float = 100.0) -> float:
    """The T in [low, high] for which softmax(logits / T) has the least mean negative log-likelihood, in float64.

    In b = 1 / T the loss is convex; its slope is the mean of E_p[logit] - true logit. We halve log b until it is zero.
    Where every label has the largest logit there is no minimum, and the answer is `low`.
    """
    logits = logits.double()
    true = logits.gather(1, labels[:, None]).mean()
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = ((logits / middle).softmax(1) * logits).sum(1).mean() - true
        low, high = (low, middle) if slope <= 0 else (middle, high)  # still falling in b: a smaller T
    return (low * high) ** 0.5


def evaluate_split(net: nn.Module, faces: FaceSet, *, flip: bool = False, bf16: bool = False) -> dict:
    """`score` of a split, whole and (where twins are known) without the images that also stand in training.

    "twin_free" is left out where every image is a twin. The network stays in the mode that it was in.
    Raises ValueError for an empty split, and as `score`.
    """
    if not len(faces):
        raise ValueError("there are no images to score: this split of the data is empty")
    logits = predict_logits(net, faces.images, flip=flip, bf16=bf16)
    result = {"whole": score(logits, faces.labels)}
    if faces.twin is not None and not faces.twin.all():
        result["twin_free"] = score(logits[~faces.twin], faces.labels[~faces.twin])
    return result


def mcnemar_test(hits_a: np.ndarray, hits_b: np.ndarray) -> dict:
    """McNemar's exact test of two networks on the same images: do their errors differ by more than a coin would?

    hits_a, hits_b: bool (N,), True where the answer was right. Returns "only_a" and "only_b", the images that one of
    them alone gets right, and the two-sided "p" of that split if each were a fair coin. Raises ValueError for other
    shapes.
    """
    a, b = np.asarray(hits_a, dtype=bool), np.asarray(hits_b, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"hits of shapes {a.shape} and {b.shape}: a paired test needs the same images for both")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, tail = only_a + only_b, min(only_a, only_b)
    p = 2 * sum(math.comb(n, k) for k in range(tail + 1)) / 2**n  # whole numbers, divided once: exact
    return {"only_a": only_a, "only_b": only_b, "p": min(1.0, p)}


def paired_bootstrap(hits_a: np.ndarray, hits_b: np.ndarray, samples: int = 10_000, seed: int = 0) -> dict:
    """Accuracy of a minus accuracy of b, resampled over the images: does it hold for other images of this kind?

    hits_a, hits_b: bool (N,), or (seeds, N) which are averaged over the seeds first. Returns "difference",
    "interval_95" (percentiles) and the two-sided "p" of no difference. Raises ValueError for other shapes.
    """
    a, b = (np.atleast_2d(np.asarray(h, dtype=np.float64)) for h in (hits_a, hits_b))
    if a.ndim != 2 or a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise ValueError(f"hits of shapes {a.shape} and {b.shape}: a paired test needs the same images for both")
    d = a.mean(0) - b.mean(0)  # (N,) one difference per image
    values, counts = np.unique(d.round(9), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(d), counts / len(d), samples)  # N images with replacement
    means = draws @ values / len(d)
    low, high = np.quantile(means, [0.025, 0.975])
    p = 2 * (1 + min((means <= 1e-9).sum(), (means >= -1e-9).sum())) / (samples + 1)
    return {"difference": float(d.mean()), "interval_95": [float(low), float(high)], "p": min(1.0, float(p))}


def holm(p_values: list[float]) -> list[float]:
    """p values of a family of tests, raised so that "p < 0.05 anywhere" is wrong in at most 5 % of families.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
