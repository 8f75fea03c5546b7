"""Networks on the straight line between two trained ones: the average of weights, chosen by the public test."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .augment import to_float
from .checkpoint import difference, weights_of
from .data import FaceData, FaceSet
from .evaluate import accuracy, evaluating, predict_logits
from .train import uphill


def between(a: dict[str, Tensor], b: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) a + share b for weights and running statistics; whole numbers, which only count, are b's."""
    return {name: torch.lerp(a[name], b[name], share) if b[name].is_floating_point() else b[name] for name in b}


def rise(net: nn.Module, faces: FaceSet, radius: float, batch: int = 256) -> float:
    """How much the mean cross-entropy grows `radius` up its own slope: L(w + radius g / |g|) - L(w), g = grad L(w).

    Small on flat ground. In evaluation mode, in float32; the network stays as it is, and in the mode it was in.
    Source: what Foret et al. (ICLR 2021) maximise over a ball, to first order.
    """
    device = next(net.parameters()).device

    def losses() -> Iterator[Tensor]:  # their sum is the mean over all faces
        for images, labels in zip(faces.images.split(batch), faces.labels.split(batch), strict=True):
            x = to_float(images.to(device)).contiguous(memory_format=torch.channels_last)
            yield F.cross_entropy(net(x), labels.to(device), reduction="sum") / len(faces)

    kept = [p.grad for p in net.parameters()]
    try:
        with evaluating(net), torch.enable_grad():
            net.zero_grad()
            here = 0.0
            for loss in losses():
                loss.backward()
                here += loss.item()
            with uphill(net, radius), torch.no_grad():
                return sum(loss.item() for loss in losses()) - here
    finally:
        for p, grad in zip(net.parameters(), kept, strict=True):
            p.grad = grad


def interpolate(
    a: nn.Module,
    b: nn.Module,
    data: FaceData,
    steps: int = 4,
    log: Callable[[str], None] | None = None,
    radius: float = 0.0,
) -> tuple[nn.Module, dict]:
    """Walk from `a` to `b` in equal steps, and look at the public test of `data` on the way. Never at the private one.

    The average of two networks can be better than both if one was trained on from the other, or both from a third
    (Wortsman et al., ICML 2022). It costs nothing when it answers: it is one network, as large as they are.

    Returns `b` with the weights of the most accurate place (of equals, the one with the smaller cross-entropy), and
    what a record needs: "points", each with share (of b), public_accuracy and public_loss; "best_share"; "ends", the
    sha256 of both networks' weights. With a radius above 0 each point has its public_rise as well, see `rise`; it
    chooses nothing.
    Raises ValueError for two networks of different configurations, steps below 1, or a radius that is no distance.
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius = {radius} must be a number from 0")
    if steps < 1:
        raise ValueError(f"steps = {steps}: from one network to another it takes at least 1")
    if found := difference(a, b):
        raise ValueError(f"the first network {found}, so there is no line to the second: name two of one configuration")
    ends = [weights_of(net) for net in (a, b)]
    first, last = ({k: v.clone() for k, v in net.state_dict().items()} for net in (a, b))
    points = []
    for step in range(steps + 1):
        b.load_state_dict(between(first, last, step / steps))
        logits = predict_logits(b, data.public.images)
        loss = F.cross_entropy(logits.double(), data.public.labels).item()
        hits = accuracy(logits, data.public.labels)
        point = {"share": step / steps, "public_accuracy": round(hits, 6), "public_loss": round(loss, 6)}
        line = f"share of the second {step / steps:.2f}  public test {100 * hits:.2f} %  cross-entropy {loss:.4f}"
        if radius:
            point["public_rise"] = round(rise(b, data.public, radius), 6)
            line += f"  rise {point['public_rise']:.4f}"
        points.append(point)
        if log:
            log(line)
    best = max(points, key=lambda p: (p["public_accuracy"], -p["public_loss"]))
    b.load_state_dict(between(first, last, best["share"]))
    found = {"ends": ends, "steps": steps, "points": points, "best_share": best["share"]}
    return b.eval(), found | ({"radius": radius} if radius else {})
