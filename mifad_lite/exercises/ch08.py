"""Checks of chapter 8: the pull on a face, the push of the centers, a useless minimum, the centers' own rule."""

import math

import torch

from . import call, exercise, require


def batch(seed: int, dimensions: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(11, dimensions, generator=generator, dtype=torch.float64)
    centers = torch.randn(5, dimensions, generator=generator, dtype=torch.float64)
    return x, centers, torch.tensor([0, 1, 1, 2, 0, 2, 2, 2, 1, 0, 2])  # classes 3 and 4 are absent


def close(found, right) -> bool:
    found = torch.as_tensor(found).detach().double()
    return found.shape == right.shape and torch.allclose(found, right, atol=1e-5)


@exercise("ex-center-gradient")
def center_gradient(answer):
    for seed in (0, 1):
        x, centers, labels = batch(seed)
        away = x - centers[labels]
        found = call(answer, x, centers, labels)
        require(not close(found, away), "the mean is missing: the loss divides by N, so its gradient does too")
        require(not close(found, -away / len(x)), "the sign is turned: a gradient points uphill, away from the center")
        require(not close(found, 2 * away / len(x)), "twice too long: the 1/2 in front of the square cancels its 2")
        require(close(found, away / len(x)), "this is not (x - c_y) / N with the shape of x")


@exercise("ex-push")
def push(answer):
    for seed in (0, 1):
        centers = batch(seed)[1]
        unit = centers / centers.norm(dim=1, keepdim=True)
        pairs = [(unit[k] @ unit[j] + 1).item() for k in range(5) for j in range(5) if j != k]
        raw = [(centers[k] @ centers[j] + 1).item() for k in range(5) for j in range(5) if j != k]
        found, right = float(torch.as_tensor(call(answer, centers)).detach()), sum(pairs)
        require(abs(found - right / 2) > 1e-5, "each pair was counted once; the sum has it twice, as (k, j) and (j, k)")
        require(abs(found - right - 10) > 1e-5, "the diagonal is in: a center does not push itself")
        require(abs(found - sum(raw)) > 1e-5, "these are dot products: the centers have to be normalised to directions")
        require(abs(found - right + 20) > 1e-5, "the + 1 of every pair is missing")
        require(abs(found - right) < 1e-5, f"for five random centers the push is {right:.4f}, not {found:.4f}")


@exercise("ex-island-minimum")
def island_minimum(answer):
    for K in (4, 5, 6, 7, 9):
        angles = torch.as_tensor(call(answer, K)).double().flatten()
        require(len(angles) == K, f"for K = {K} there are {len(angles)} angles")
        total = math.hypot(angles.cos().sum(), angles.sin().sum())
        require(total < 1e-4, f"for K = {K} the directions do not sum to zero, so the push is not at its minimum")
        gaps = torch.cos(angles[:, None] - angles[None]).fill_diagonal_(-1)
        require(gaps.max() > 1 - 1e-6, f"for K = {K} no two classes share a direction: this minimum does separate")


@exercise("ex-center-update")
def center_update(answer):
    for seed in (0, 1):
        x, centers, labels = batch(seed)
        sums = torch.stack([sum((centers[j] - x[labels == j]), torch.zeros(3).double()) for j in range(5)])
        n = torch.bincount(labels, minlength=5)[:, None]
        found = torch.as_tensor(call(answer, x, centers, labels))
        require(found.shape == centers.shape, f"the shape has to be that of the centers, {tuple(centers.shape)}")
        require(not found.isnan().any(), "an absent class gives 0/0: the one in the denominator is missing")
        require(not close(found, sums / n.clamp(1)), "the one in 1 + n is missing")
        require(not close(found, sums / len(x)), "this divides by the batch size: that is the gradient, not the rule")
        require(not close(found, -sums / (1 + n)), "the sign is turned: the rule has c - x")
        require(close(found[3:], torch.zeros(2, 3).double()), "an absent class has to stay put")
        require(close(found, sums / (1 + n)), "this is not the sum of c - x over a class, divided by 1 + n")
