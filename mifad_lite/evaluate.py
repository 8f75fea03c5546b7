"""What a network did: accuracy, per class, confusion matrix, intervals; on the whole split and without twins."""

import torch
from torch import Tensor, nn

from .augment import to_float
from .data import CLASSES, FaceSet

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@torch.inference_mode()
def predict_logits(
    net: nn.Module, images: Tensor, *, flip: bool = False, bf16: bool = False, batch: int = 256
) -> Tensor:
    """uint8 (N, 1, 48, 48) -> logits (N, classes), float32 on the CPU. `flip` averages with the mirror image."""
    net.eval()
    device = next(net.parameters()).device
    rows = []
    for chunk in images.split(batch):
        x = to_float(chunk.to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = net(x).float()
            if flip:
                logits = (logits + net(x.flip(3)).float()) / 2
        rows.append(logits.cpu())
    return torch.cat(rows)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """sum_i TP_i / N (the paper's equation for accuracy)."""
    return (logits.argmax(1) == labels).double().mean().item()


def confusion_counts(predicted: Tensor, labels: Tensor, classes: int = len(CLASSES)) -> Tensor:
    """n_ij (classes, classes): images of true class i predicted as j. Row i divided by n_i is the paper's CP_ij."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def wilson_interval(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (JASA 1927). Raises ValueError unless 0 <= hits <= n and n > 0."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n}: an interval needs 0 <= hits <= n and n > 0")
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def score(logits: Tensor, labels: Tensor) -> dict:
    """Everything reported of one set of images: n, hits, accuracy, its interval, per class, confusion counts.

    Raises ValueError for a set without images.
    """
    if not len(labels):
        raise ValueError("there are no images to score: this split of the data is empty")
    counts = confusion_counts(logits.argmax(1), labels)
    n, hits = len(labels), int(counts.trace())
    recall = (counts.diagonal().double() / counts.sum(1)).tolist()
    return {
        "n": n,
        "hits": hits,
        "accuracy": hits / n,
        "wilson_95": list(wilson_interval(hits, n)),
        "per_class": {c: (r if r == r else None) for c, r in zip(CLASSES, recall, strict=True)},  # None: no such image
        "confusion": counts.tolist(),
    }


def evaluate_split(net: nn.Module, faces: FaceSet, *, flip: bool = False, bf16: bool = False) -> dict:
    """`score` of a split, whole and (where twins are known) without the images that also stand in training.

    "twin_free" is left out where every image is a twin. Raises ValueError for an empty split.
    """
    if not len(faces):
        raise ValueError("there are no images to score: this split of the data is empty")
    logits = predict_logits(net, faces.images, flip=flip, bf16=bf16)
    result = {"whole": score(logits, faces.labels)}
    if faces.twin is not None and not faces.twin.all():
        result["twin_free"] = score(logits[~faces.twin], faces.labels[~faces.twin])
    return result
