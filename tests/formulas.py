"""The layers in numpy and float64: what the tests of the network compare with."""

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def conv2d(x, conv: nn.Conv2d, stride: int = 1) -> np.ndarray:
    """Zero padding k // 2: (B, C, H, W) -> (B, O, H / stride, W / stride)."""
    weight = array(conv.weight)
    pad = weight.shape[-1] // 2
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))), weight.shape[2:], axis=(2, 3))
    out = np.einsum("bchwij,ocij->bohw", windows, weight)[:, :, ::stride, ::stride]
    return out if conv.bias is None else out + array(conv.bias)[:, None, None]


def batch_norm(x, norm: nn.BatchNorm2d | nn.BatchNorm1d, training: bool) -> np.ndarray:
    """Training uses the batch's mean and biased variance, evaluation the running ones."""
    axes = (0, *range(2, x.ndim))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var = (x.mean(axes), x.var(axes)) if training else (array(norm.running_mean), array(norm.running_var))
    x = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + norm.eps)
    return x * array(norm.weight).reshape(shape) + array(norm.bias).reshape(shape)


def relu(x) -> np.ndarray:
    return np.maximum(x, 0)


def softmax(x) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def finite_difference(f, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient of a scalar function by central differences."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (f(up) - f(down)) / (2 * step)
    return gradient


@torch.no_grad()
def scramble(module: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter and running statistic off its starting value (alpha and beta leave zero)."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    for name, b in module.named_buffers():
        if name.endswith("running_mean"):
            b += 0.3 * torch.randn(b.shape, generator=generator, dtype=b.dtype)
        elif name.endswith("running_var"):
            b *= 0.5 + torch.rand(b.shape, generator=generator, dtype=b.dtype)
    return module
