"""The angular distance loss (paper Figure 8), its classifier, and the rivals of Table 3.

The angular distance loss is ArcFace (Deng et al., CVPR 2019), which the paper does not cite. Everything
here computes in float32, whatever autocast says: in bfloat16 a cosine of 1 - 1e-6 rounds to 1, where
the angle has an infinite slope.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIN_SQUARED_FLOOR = 1e-7  # below this, sin(theta) continues as a straight line: exact at 0, finite slope


class CosineClassifier(nn.Module):
    """cos(theta_j) between an embedding and each class direction: (B, E) -> (B, classes), float32.

    The class weights are drawn with unit variance and belong in an optimiser group without weight decay.
    The forward pass divides their norm out, but Adam's step is absolute: a tiny norm turns every step
    into a large rotation.

    Source: the cosines of the loss equation; normalised as in ArcFace.
    """

    def __init__(self, embedding: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, embedding))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(x.float(), dim=1) @ F.normalize(self.weight.float(), dim=1).T


def add_margin(cos_theta: Tensor, margin: float | Tensor) -> Tensor:
    """cos(theta + m) from cos(theta), for any shape, decreasing in theta over the whole of [0, pi].

    margin: m in radians, a number or a tensor () on the device of `cos_theta`.

    Uses cos(theta + m) = cos(theta) cos(m) - sin(theta) sin(m), so no arccosine is taken. Past
    theta + m = pi the plain cosine would rise again. There it continues as -2 - cos(theta + m), which
    joins in value and slope.
    """
    sin_squared = (1 - cos_theta * cos_theta).clamp_min(0)
    root = sin_squared.clamp_min(SIN_SQUARED_FLOOR).sqrt()
    sin_theta = torch.where(sin_squared > SIN_SQUARED_FLOOR, root, sin_squared / math.sqrt(SIN_SQUARED_FLOOR))
    by = torch if isinstance(margin, Tensor) else math
    shifted = cos_theta * by.cos(margin) - sin_theta * by.sin(margin)
    return torch.where(cos_theta >= -by.cos(margin), shifted, -2 - shifted)


class AngularDistanceLoss(nn.Module):
    """L = -1/N sum_i log( e^{s cos(theta_yi + m)} / (e^{s cos(theta_yi + m)} + sum_{j != yi} e^{s cos theta_j}) ).

    Args:
        scale: s > 0.
        margin: m in radians, 0 <= m < pi/2. With m = 0 this is cross-entropy on s cos(theta).

    Where labels disagree, a large m pays for moving the class directions together and the unsure samples to their far
    side, where the margin costs far less ("The far side" in book/07_margin.md). Watch the angles between the
    rows of the classifier, and lower m where they shrink.

    Source: the loss equation of the paper and Figure 8. Raises ValueError for s or m out of range.
    """

    def __init__(self, scale: float = 16.0, margin: float = 0.2):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale s = {scale} must be positive")
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin m = {margin} must lie in [0, pi/2) radians")
        self.scale, self.margin = scale, margin

    def logits(self, cos_theta: Tensor, labels: Tensor, ramp: float | Tensor = 1.0) -> Tensor:
        """cos(theta) (B, K), labels (B,) -> logits (B, K) with the margin on the true class alone."""
        cos_theta = cos_theta.float().clamp(-1, 1)
        true = labels[:, None]
        return self.scale * cos_theta.scatter(1, true, add_margin(cos_theta.gather(1, true), ramp * self.margin))

    def forward(
        self,
        cos_theta: Tensor,
        labels: Tensor,
        ramp: float | Tensor = 1.0,
        smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> Tensor:
        """Mean loss over the batch, or with reduction="none" one loss for each sample (B,).

        ramp in [0, 1] scales the margin: training raises it from 0 to 1.  smoothing: part of the target that is spread
        evenly over all classes (Szegedy et al., CVPR 2016), 0 in the paper.
        """
        with torch.autocast(cos_theta.device.type, enabled=False):
            logits = self.logits(cos_theta, labels, ramp)
            return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction=reduction)


class CenterLoss(nn.Module):
    """L_C = 1/(2N) sum_i ||x_i - c_{y_i}||^2 with one learned center per class (Wen et al., ECCV 2016).

    The published sum is divided by the batch size N, so that its weight does not change with N.
    """

    def __init__(self, classes: int, embedding: int):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, embedding))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """x (B, E), labels (B,) -> scalar, float32."""
        with torch.autocast(x.device.type, enabled=False):
            return 0.5 * (x.float() - self.centers[labels]).square().sum(1).mean()


class IslandLoss(CenterLoss):
    """L_IL = L_C + lambda_1 sum_k sum_{j != k} (cos(c_k, c_j) + 1) (Cai et al., FG 2018).

    Args:
        pairwise_weight: lambda_1, the weight of the term that pushes the centers apart in angle.
    """

    def __init__(self, classes: int, embedding: int, pairwise_weight: float = 10.0):
        super().__init__(classes, embedding)
        self.pairwise_weight = pairwise_weight

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            cosines = F.normalize(self.centers, dim=1) @ F.normalize(self.centers, dim=1).T  # (K, K)
            off_diagonal = (cosines + 1).sum() - (cosines + 1).diagonal().sum()
            return super().forward(x, labels) + self.pairwise_weight * off_diagonal
