"""Networks on the straight line between two trained ones: the average of weights, chosen by the public test."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import difference, weights_of
from .data import FaceData
from .evaluate import accuracy, predict_logits


def between(a: dict[str, Tensor], b: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) a + share b for weights and running statistics; whole numbers, which only count, are b's."""
    return {name: torch.lerp(a[name], b[name], share) if b[name].is_floating_point() else b[name] for name in b}


def interpolate(
    a: nn.Module, b: nn.Module, data: FaceData, steps: int = 4, log: Callable[[str], None] | None = None
) -> tuple[nn.Module, dict]:
    """Walk from `a` to `b` in equal steps, and look at the public test of `data` on the way. Never at the private one.

    The average of two networks can be better than both if one was trained on from the other, or both from a third
    (Wortsman et al., ICML 2022). It costs nothing when it answers: it is one network, as large as they are.

    Returns `b` with the weights of the most accurate place (of equals, the one with the smaller cross-entropy), and
    what a record needs: "points", each with share (of b), public_accuracy and public_loss; "best_share"; "ends", the
    sha256 of both networks' weights.
    Raises ValueError for two networks of different configurations, or steps below 1.
    """
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
        points.append({"share": step / steps, "public_accuracy": round(hits, 6), "public_loss": round(loss, 6)})
        if log:
            log(f"share of the second {step / steps:.2f}  public test {100 * hits:.2f} %  cross-entropy {loss:.4f}")
    best = max(points, key=lambda p: (p["public_accuracy"], -p["public_loss"]))
    b.load_state_dict(between(first, last, best["share"]))
    return b.eval(), {"ends": ends, "steps": steps, "points": points, "best_share": best["share"]}
