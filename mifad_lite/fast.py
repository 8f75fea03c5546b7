"""The same network for inference alone, on a CPU: batch norms folded into convolutions, convolutions on 8-bit integers.

    fast = accelerate(net, data.train.images[:256])  # a few images set the scales
    logits = fast(images)                            # uint8 (B, 1, 48, 48) -> (B, classes)

Folding is exact: W' = W gamma / sigma, b' = beta - mu gamma / sigma. Eight bits are not. A tensor x is stored as
integers q with x = (q - zero) scale, a kernel with one scale for each output channel, and a convolution sums products
of integers (Jacob et al., CVPR 2018). What both buy stands in book/results/bench.json, what they cost in accuracy in
book/results/cpu_evaluation_int8.json. Attention and the projection stay in bfloat16, its small vectors and the head in
float32. Spatial attention goes by the table of `attention.tabulation`, but for a few faces. Its error is
below bfloat16's on most faces and above it on the few where v ranges over more than about 8: it grows with that range.
"""

import copy
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .attention import AttentionModule, tabulation
from .columns import DEPTH, FUSED_DEPTHS
from .data import SIZE
from .model import MIFADNet

MIDDLE = 128  # the integer that stands for 0 where values have both signs
KNOTS = 16  # of the table in spatial attention
FEW = 8  # faces, for which calls cost more than arithmetic: they take the way with fewer calls


def fold(net: MIFADNet) -> MIFADNet:
    """A copy in evaluation mode without the batch norms that follow a convolution: same outputs, up to rounding."""
    net = copy.deepcopy(net).eval()
    for column in net.columns:
        for i, norm in enumerate(column.norms):
            column.convs[i] = fuse_conv_bn_eval(column.convs[i], norm)
            column.norms[i] = nn.Identity()
    for fusion in net.fusions:
        fusion.project = fuse_conv_bn_eval(fusion.project, fusion.norm)
        fusion.norm = nn.Identity()
    return net


class IntegerConv:
    """A convolution on 8-bit integers: uint8 (B, C, H, W) in channels_last -> uint8 or bfloat16, by oneDNN.

    inputs, outputs: (scale, zero) of the two tensors; outputs None gives bfloat16.  relu: with a ReLU behind it.
    """

    def __init__(self, weight: Tensor, bias: Tensor, inputs: tuple, outputs: tuple | None, relu: bool = False):
        self.scale, self.zero = inputs
        self.padding = [weight.shape[2] // 2] * 2
        self.out_scale, self.out_zero = outputs or (1.0, 0)
        self.dtype = torch.uint8 if outputs else torch.bfloat16
        self.attr = "relu" if relu else "none"
        self.weight_scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
        self.weight_zero = torch.zeros(len(weight), dtype=torch.int)
        q = (weight / self.weight_scale[:, None, None, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qconv_prepack(
            q, self.weight_scale, self.scale, self.zero, [1, 1], self.padding, [1, 1], 1, None
        )
        self.bias = bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.onednn.qconv2d_pointwise(
            x, self.scale, self.zero, self.weight, self.weight_scale, self.weight_zero, self.bias,
            [1, 1], self.padding, [1, 1], 1, self.out_scale, self.out_zero, self.dtype, self.attr, [], None,
        )  # fmt: skip


def max_pool(q: Tensor) -> Tensor:
    """2x2 max pool of uint8. (torch 2.13 refuses its own max_pool2d on uint8 in channels_last.)"""
    q = q[:, :, : q.shape[2] // 2 * 2, : q.shape[3] // 2 * 2]
    rows = torch.maximum(q[:, :, ::2], q[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def reach(x: Tensor) -> float:
    """The largest absolute value of each image, averaged: a few outliers are cut off, and all others gain precision."""
    return max(x.flatten(1).abs().amax(1).mean().item(), 1e-6)


class IntegerColumn:
    """A folded column on integers: uint8 images -> its maps of depths 4, 5, 6 as uint8, and `scales` to read them."""

    def __init__(self, column: nn.Module, pixels: Tensor, inputs: tuple[float, int]):
        """pixels: calibration images as the first convolution reads them, float32.  inputs: (scale, zero) of uint8."""
        self.pool_after, self.convs, self.scales = column.pool_after, [], []
        x = pixels
        for depth, conv in enumerate(column.convs, start=1):
            x = torch.relu(conv(x))
            outputs = (reach(x) / 255, 0)
            bias = conv.bias
            if depth == 1:  # a pixel u means (u - 127.5) scale, but the zero must be an integer
                bias = bias + conv.weight.sum((1, 2, 3)) * (inputs[1] - 127.5) * inputs[0]
            self.convs.append(IntegerConv(conv.weight, bias, inputs, outputs, relu=True))
            if depth in FUSED_DEPTHS:
                self.scales.append(outputs[0])
            inputs = outputs
            if depth in self.pool_after:
                x = F.max_pool2d(x, 2)

    def __call__(self, q: Tensor) -> list[Tensor]:
        maps = []
        for depth in range(1, DEPTH + 1):
            q = self.convs[depth - 1](q)
            if depth in FUSED_DEPTHS:
                maps.append(q)
            if depth in self.pool_after:
                q = max_pool(q)
        return maps


class FastAttention:
    """Channel, then spatial attention without gradients, on rows of places: (B, H, W, C) bfloat16 -> the same."""

    def __init__(self, attention: AttentionModule):
        attention = copy.deepcopy(attention).float()
        self.channel, self.spatial = attention.channel, attention.spatial

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1, 2)  # (B, HW, C)
        if self.channel is not None:
            c, y = self.channel, x.permute(0, 3, 1, 2)
            pooled = (F.adaptive_avg_pool2d(y, 1) + F.adaptive_max_pool2d(y, 1)).float().flatten(1)
            v = F.linear(pooled, c.conv.weight.flatten(1), c.conv.bias)  # faster than a convolution of one place
            v = c.norm(c.act(v)[:, :, None, None]).flatten(1)  # (B, C)
            weights = self.channel.alpha * torch.softmax(v[:, :, None] * v[:, None, :], dim=-1)
            flat = torch.baddbmm(flat, flat, weights.to(flat.dtype).transpose(1, 2))
        if self.spatial is not None:
            wide = flat.float()  # the largest of a row of bfloat16 takes three times as long
            pooled = torch.stack([wide.mean(-1), wide.amax(-1)], dim=1).unflatten(2, x.shape[1:3])
            v = self.spatial.norm(self.spatial.act(self.spatial.conv(pooled))).flatten(1)  # (B, HW)
            if len(x) < FEW:
                mixed = torch.softmax(v[:, :, None] * v[:, None, :], dim=-1).to(flat.dtype) @ flat
            else:
                basis, rows = (factor.to(flat.dtype) for factor in tabulation(v, KNOTS))
                mixed = basis @ (rows @ flat)
            flat = torch.addcmul(flat, mixed, self.spatial.beta.to(flat.dtype))
        return flat.view_as(x)


class IntegerFusion:
    """A folded fusion: alignment and gate on integers, attention and projection in bfloat16."""

    def __init__(self, fusion: nn.Module, maps: list[Tensor], scales: list[float]):
        """maps: K calibration maps (n, C_k, H, W), float32.  scales: what one step of each uint8 map is worth."""
        aligned = [align(f) for align, f in zip(fusion.align, maps, strict=True)]
        step = torch.tensor(reach(torch.cat(aligned, dim=1)) / 127).bfloat16()  # so MIDDLE * step is exact in bfloat16
        self.scale, self.shift = step.item(), -MIDDLE * step
        both = (self.scale, MIDDLE)  # one scale for all columns, since their maps are concatenated
        self.align = []
        for align, f, scale in zip(fusion.align, maps, scales, strict=True):
            if isinstance(align, nn.Identity):
                weight, bias = torch.eye(f.shape[1])[:, :, None, None], torch.zeros(f.shape[1])
            else:
                weight, bias = align.weight, align.bias
            self.align.append(IntegerConv(weight, bias, (scale, 0), both))
        self.merge = IntegerConv(fusion.merge.weight, fusion.merge.bias, both, None)
        self.kind = fusion.fusion
        self.attention = FastAttention(fusion.attention)
        # ((K + 1) C, C), or (2 C, C) where maps are not spliced
        self.project = fusion.project.weight.flatten(1).t().contiguous().bfloat16()
        self.bias = fusion.project.bias.bfloat16()

    def __call__(self, maps: list[Tensor]) -> Tensor:
        aligned = [align(f) for align, f in zip(self.align, maps, strict=True)]  # each (B, C, H, W) uint8
        gate = self.merge(torch.cat(aligned, dim=1)).sigmoid_().permute(0, 2, 3, 1)
        # (q - MIDDLE) scale, in one pass: each (B, H, W, C) bfloat16
        f = [torch.add(self.shift, q, alpha=self.scale).permute(0, 2, 3, 1) for q in aligned]
        parts = [x * gate for x in f]
        if self.kind != "concat":
            parts = [reduce(torch.add if self.kind == "add" else torch.mul, parts)]
        parts.append(self.attention(reduce(torch.add, f)))
        if len(gate) < FEW:
            out = torch.addmm(self.bias, torch.cat(parts, dim=-1).flatten(0, 2), self.project)  # (B H W, C)
        else:
            out = self.bias.repeat(gate[..., 0].numel(), 1)
            for part, weight in zip(parts, self.project.split(gate.shape[-1]), strict=True):
                out.addmm_(part.flatten(0, 2), weight)  # added up one by one: no concatenation
        return torch.relu_(out).view_as(gate).permute(0, 3, 1, 2)


class FastMIFAD(nn.Module):
    """MIFAD-Net on 8-bit integers: (B, 1, 48, 48), uint8 or float in [0, 1] -> logits (B, classes), float32.

    Under autocast the logits of a linear head are bfloat16. Floats are rounded to gray levels, and cut off at 0 and 1.
    Raises ValueError for NaN and other integers.

    It has no gradients and no state to save: make it anew with `accelerate`.
    """

    def __init__(self, net: MIFADNet, images: Tensor):
        super().__init__()
        folded = fold(net).float()
        self.config, self.embed, self.norm, self.head = net.config, folded.embed, folded.norm, folded.head
        pixels = (images.float() / 255 - 0.5) * 4
        self.columns = [IntegerColumn(column, pixels, (4 / 255, MIDDLE)) for column in folded.columns]
        by_column = [column(pixels) for column in folded.columns]
        self.fusions = [
            IntegerFusion(fusion, list(maps), [column.scales[i] for column in self.columns])
            for i, (fusion, maps) in enumerate(zip(folded.fusions, zip(*by_column, strict=True), strict=True))
        ]

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            if images.isnan().any():
                raise ValueError("some pixels are NaN, and no gray level is: look at where the images come from")
            images = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
        elif images.dtype != torch.uint8:
            raise ValueError(f"{images.dtype} images: give uint8, or floats in [0, 1]")
        q = images.contiguous(memory_format=torch.channels_last)
        by_column = [column(q) for column in self.columns]
        pooled = [
            F.adaptive_avg_pool2d(fusion(list(maps)), self.config.pool_grid).flatten(1)
            for fusion, maps in zip(self.fusions, zip(*by_column, strict=True), strict=True)
        ]
        embedding = self.norm(self.embed(torch.cat(pooled, dim=1).float()))
        logits = self.head(embedding)
        return self.config.scale * logits if self.config.head == "cosine" else logits


@torch.no_grad()
def accelerate(net: MIFADNet, images: Tensor) -> FastMIFAD:
    """A faster copy of a trained network for inference on a CPU; the network stays as it is.

    images: uint8 (N, 1, 48, 48), faces like those to come, of the training split. They set the scales; 256 are plenty.
    Raises ValueError for another network, for no or other images, and where this torch has no oneDNN.
    """
    if not isinstance(net, MIFADNet):
        raise ValueError(f"{type(net).__name__} has no 8-bit form: accelerate takes a MIFADNet")
    if images.dtype != torch.uint8 or images.shape[1:] != (1, SIZE, SIZE) or not len(images):
        raise ValueError(f"{images.dtype} images of shape {tuple(images.shape)}: give uint8 (N, 1, 48, 48), N > 0")
    if not torch.backends.mkldnn.is_available():
        raise ValueError("this torch lacks oneDNN, which does the 8-bit convolutions: use the network itself")
    return FastMIFAD(copy.deepcopy(net).cpu(), images.cpu())
