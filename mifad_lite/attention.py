"""Channel attention, spatial attention and their cascade (paper Figures 4, 5 and 6).

Both blocks squeeze a feature map F (B, C, H, W) to one vector v, take the outer product v v^T as
logits, and apply a softmax to each row. The outer product has rank one, so row i depends on the input
only through the scalar v_i and the vector v. A learned weight that starts at 0 scales what the
attention adds. The residual "+ F" is our decision: without it a block would output zero at the start.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """A_c = softmax_rows(v v^T) with v = BN(PReLU(conv1x1(GAP(F) + GMP(F)))); out = alpha (A_c F) + F.

    Args:
        channels: C, the channels of the map.

    Source: Figure 4 and the equations beside it. `alpha` is learned and starts at 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.act = nn.PReLU()
        self.norm = nn.BatchNorm2d(channels)
        self.alpha = nn.Parameter(torch.zeros(()))

    def vector(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> v (B, C)."""
        # The mean over rows of places hands its gradient back in the layout of x; adaptive_avg_pool2d does not.
        mean = x.flatten(2).transpose(1, 2).mean(1)
        pooled = mean[:, :, None, None] + F.adaptive_max_pool2d(x, 1)  # (B, C, 1, 1)
        return self.norm(self.act(self.conv(pooled))).flatten(1)

    def forward(self, x: Tensor, return_map: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C, H, W), and with `return_map` also A_c (B, C, C), whose rows sum to 1."""
        v = self.vector(x)
        weights = torch.softmax(v[:, :, None] * v[:, None, :], dim=-1)  # (B, C, C): row i weighs the channels j
        flat = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        out = torch.baddbmm(flat, flat, (self.alpha * weights).to(x.dtype).transpose(1, 2))  # F + alpha A_c F
        out = out.transpose(1, 2).reshape(x.shape)
        return (out, weights) if return_map else out


class SpatialAttention(nn.Module):
    """A_s = softmax_rows(v v^T) with v = BN(PReLU(conv3x3([mean_c F; max_c F]))); out = beta (F A_s^T) + F.

    A_s[i, j] is the influence of position j on position i. (The paper's text says "channel" here. Its
    shape, HW x HW, says position.) A row of A_s is the softmax of v_i v_j over j: scaled dot product
    attention with head size 1. So the HW x HW matrix is built only when you ask for it.

    Source: Figure 5 and the equations beside it. `beta` is learned and starts at 0.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)
        self.act = nn.PReLU()
        self.norm = nn.BatchNorm2d(1)
        self.beta = nn.Parameter(torch.zeros(()))

    def vector(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> v (B, HW), one number per position in row-major order."""
        places = x.flatten(2).transpose(1, 2)  # (B, HW, C): gradients come back in this layout, which is x's
        pooled = torch.stack([places.mean(-1), places.max(-1).values], dim=1)  # (B, 2, HW)
        return self.norm(self.act(self.conv(pooled.unflatten(2, x.shape[2:])))).flatten(1)

    def forward(self, x: Tensor, return_map: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C, H, W), and with `return_map` also A_s (B, HW, HW), whose rows sum to 1."""
        v = self.vector(x)
        flat = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        if return_map:
            weights = torch.softmax(v[:, :, None] * v[:, None, :], dim=-1)  # (B, HW, HW)
            mixed = weights.to(x.dtype) @ flat
        else:
            mixed = rank_one_attention(v, flat)
        out = torch.addcmul(flat, mixed, self.beta.to(x.dtype))  # F + beta F A_s^T, in rows of places
        out = out.transpose(1, 2).reshape(x.shape)
        return (out, weights) if return_map else out


ROWS = 48  # in a block; a class attribute would cut the graph that torch.compile traces


class RowBlockAttention(torch.autograd.Function):
    """softmax_rows(v v^T) @ values, a block of rows at a time, forwards and backwards.

    Memory holds v, the values and one block of rows. The backward pass computes the rows again, without autocast.
    `torch.func` (grad, jacrev, vmap) cannot go through it, but through the plain formula: `SpatialAttention` with its
    `return_map`.
    """

    @staticmethod
    def forward(ctx, v: Tensor, values: Tensor) -> Tensor:
        blocks = v.split(ROWS, dim=1)
        out = torch.cat([torch.softmax(r[:, :, None] @ v[:, None, :], dim=-1) @ values for r in blocks], dim=1)
        ctx.save_for_backward(v, values, out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        v, values, out = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):  # on where loss.backward() is called inside it
            grad = grad.to(values.dtype)  # under autocast the forward products are bfloat16, whatever came in
            mean = (grad * out).sum(-1, keepdim=True)  # of a row's grad_a under its weights: out is a @ values
            grad_v, grad_values = torch.zeros_like(v), torch.zeros_like(values)
            start = 0
            for g in grad.split(ROWS, dim=1):  # (B, R, C)
                rows = slice(start, start + g.shape[1])
                a = torch.softmax(v[:, rows, None] @ v[:, None, :], dim=-1)  # (B, R, N)
                grad_values.baddbmm_(a.transpose(1, 2), g)
                grad_a = g @ values.transpose(1, 2)
                grad_logits = grad_a.sub_(mean[:, rows]).mul_(a)  # (B, R, N)
                grad_v[:, rows] += (grad_logits @ v[:, :, None])[..., 0]  # the logits are v_i v_j: v_i as the row ...
                grad_v += (v[:, None, rows] @ grad_logits)[:, 0]  # ... and v_j as the column
                start += g.shape[1]
        return grad_v, grad_values


def rank_one_attention(v: Tensor, values: Tensor) -> Tensor:
    """softmax_rows(v v^T) @ values without the N x N matrix: v (B, N), values (B, N, C) -> (B, N, C).

    On a GPU this is fused scaled dot product attention. Its kernels want queries, keys and values of one
    width, so v is padded with zeros to C. On a CPU the same call took about three times as long as the row
    blocks, forwards and backwards, and the plain formula, which holds the N x N matrix, less than either
    (N = 144, C = 48, batch 64, bfloat16; "spatial_attention" in book/results/bench.json).
    """
    v = v.to(values.dtype)
    if values.device.type == "cpu":
        return RowBlockAttention.apply(v, values)
    query = F.pad(v[:, None, :, None], (0, values.shape[-1] - 1))  # (B, 1, N, C)
    return F.scaled_dot_product_attention(query, query, values[:, None], scale=1.0)[:, 0]


def tabulated_attention(v: Tensor, values: Tensor, knots: int = 16) -> Tensor:
    """softmax_rows(v v^T) @ values, nearly, in O(N * knots): v (B, N), values (B, N, C) -> (B, N, C).

    The two factors of `tabulation`, times the values. `tabulation_error_bound` says how far off that can be.
    Computes in float32, or float64 where an input is, and returns values' dtype.
    Differentiable once, in both arguments. Raises ValueError for fewer than 2 knots.
    """
    kind = _table_dtype(v, values, knots)
    with torch.autocast(v.device.type, enabled=False):
        basis, rows = tabulation(v.to(kind), knots)
        return (basis @ (rows @ values.to(kind))).to(values.dtype)


def tabulation(v: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """v (B, N) -> (B, N, 2 knots) and (B, 2 knots, N), whose product is nearly softmax_rows(v v^T).

    Row i is a point of one curve, w(t) = softmax(t v) at t = v_i. Its slope is w(t) times (v - its mean under w(t)).
    The second factor holds the curve and its slope at equidistant knots from min v to max v of each sample; the first
    holds the cubic Hermite polynomials that join the two knots beside each v_i. It is 0 at all other knots.
    """
    low, high = v.amin(1, keepdim=True), v.amax(1, keepdim=True)  # (B, 1)
    h = ((high - low) / (knots - 1)).clamp_min(torch.finfo(v.dtype).eps)  # where all v are equal: knots beyond them
    k = torch.arange(knots, device=v.device)
    weights = torch.softmax((low + h * k)[:, :, None] * v[:, None, :], dim=-1)  # (B, K, N)
    centred = v[:, None, :] - (weights * v[:, None, :]).sum(-1, keepdim=True)  # v minus its mean under the weights
    away = ((v - low) / h)[:, :, None] - k  # (B, N, K): the steps from each knot to v_i
    near = (1 - away.abs()).clamp_min(0)
    basis = torch.cat([near * near * (3 - 2 * near), near * near * away], dim=-1)
    return basis, torch.cat([weights, h[:, :, None] * weights * centred], dim=1)


def tabulation_error_bound(v: Tensor, values: Tensor, knots: int) -> Tensor:
    """A bound on |tabulated_attention - exact| over all rows and channels, rounding aside: -> (B,).

    With R the range of v and S the largest range of a channel over the places, R^8 S / (1536 (knots - 1)^4).

    Why: a cubic Hermite polynomial over a step h = R / (knots - 1) errs by at most h^4/384 max|phi4|, with phi4 the
    fourth derivative of phi. The derivative of an expectation under softmax(t v) is a covariance with v. Four times,
    and phi4 = Cov(F, q), q = x^4 - 6 m2 x^2 - 4 m3 x, where x = v - E v and m2, m3 are its central moments.
    A covariance is at most a quarter of the product of the ranges (Popoviciu and Cauchy-Schwarz). So |phi4| <= S R^4/4
    if the range of q is at most 1 for R = 1. Let |x| <= M <= 1 and y = x^2. The range of y^2 - 6 m2 y is at most
    - (M^2 - 3 m2)^2 where 6 m2 <= M^2. The last term adds 4 |m3| <= 4 M m2. The sum is convex in m2, and at most 1 at
      both ends, 0 and M^2 / 6.
    - 9 m2^2 <= 9/16 elsewhere, as m2 <= 1/4. Cauchy-Schwarz, m2^2 <= b (b m2 - m3) for x <= b, makes two points the
      worst case for m3: 4 |m3| <= 4 / (6 sqrt(3)) < 7/16.
    The constant 1/4 cannot fall below 0.127, which a v of two values reaches.
    Raises ValueError for fewer than 2 knots.
    """
    kind = _table_dtype(v, values, knots)
    t, f = v.to(kind), values.to(kind)
    spread = t.amax(1) - t.amin(1)  # (B,)
    return spread**8 * (f.amax(1) - f.amin(1)).amax(-1) / (1536 * (knots - 1) ** 4)


def _table_dtype(v: Tensor, values: Tensor, knots: int) -> torch.dtype:
    """float32, or float64 where an input is. Raises ValueError for fewer than 2 knots."""
    if knots < 2:
        raise ValueError(f"knots = {knots}: a table needs at least 2, the smallest and the largest v")
    return torch.promote_types(torch.promote_types(v.dtype, values.dtype), torch.float32)


class AttentionModule(nn.Module):
    """Channel attention, then spatial attention (Figure 6).

    Args:
        channels: C.
        kind: "both" (the paper), "channel", "spatial" or "none" (the ablation of Table 5).

    Raises ValueError for another `kind`.
    """

    KINDS = ("both", "channel", "spatial", "none")

    def __init__(self, channels: int, kind: str = "both"):
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"attention {kind!r} is unknown: use one of {', '.join(self.KINDS)}")
        self.channel = ChannelAttention(channels) if kind in ("both", "channel") else None
        self.spatial = SpatialAttention() if kind in ("both", "spatial") else None

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """(B, C, H, W) -> (B, C, H, W), and with `return_maps` also {"channel": A_c, "spatial": A_s}."""
        maps = {}
        for name, block in (("channel", self.channel), ("spatial", self.spatial)):
            if block is None:
                continue
            if return_maps:
                x, maps[name] = block(x, return_map=True)
            else:
                x = block(x)
        return (x, maps) if return_maps else x
