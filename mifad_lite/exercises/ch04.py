"""Chapter 4: spatial attention. Each check compares with numpy in float64, and recognises what usual mistakes give."""

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from . import call, exercise, require


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(x: np.ndarray, axis: int | tuple = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def numbers(value, shape: tuple, what: str) -> np.ndarray:
    """The answer's tensor as float64, of this shape."""
    require(isinstance(value, torch.Tensor), f"expected a tensor, got {type(value).__name__}")
    require(tuple(value.shape) == shape, f"{what} has the shape {tuple(value.shape)}, expected {shape}")
    return value.detach().double().numpy()


def close(a, b, rtol: float = 1e-6, atol: float = 1e-9) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol, atol)


class Largest(TorchFunctionMode):
    """Remembers the number of elements of the largest tensor that any call returns."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        self.elements = max([self.elements, *(t.numel() for t in made if isinstance(t, torch.Tensor))])
        return out


@exercise("ex-spatial-map")
def spatial_map(answer):
    v = draw(2, 5)
    got = numbers(call(answer, v), (2, 5, 5), "the map")
    logits = v.numpy()[:, :, None] * v.numpy()[:, None, :]
    require(not close(got, logits), "the softmax is missing: these are the products v_i v_j")
    require(not close(got, softmax(logits, 1)), "the softmax runs over columns instead of rows: use the last axis")
    require(not close(got, softmax(logits, 0)), "the softmax runs over the batch: every face needs its own map")
    require(not close(got, softmax(logits, (1, 2))), "the softmax runs over the whole matrix: each row must sum to 1")
    require(not close(got, softmax(logits / np.sqrt(5))), "the logits are divided by a root: the paper does not scale")
    require(close(got, softmax(logits)), "the map differs from the row softmax of v_i v_j")


@exercise("ex-spatial-cost")
def spatial_cost(answer):
    for side, channels in ((12, 48), (7, 3)):
        value = call(answer, side, channels)
        require(isinstance(value, tuple | list) and len(value) == 2, "return a pair: multiply-adds, bytes")
        work, size = (float(x) for x in value)
        pairs = side**4
        require(work not in (pairs, pairs * channels), "one of the two products is missing: the logits, or F A_s^T")
        require(work != side**2 * (1 + channels), "the products of one row only: there are HW rows of HW entries")
        require(work == pairs * (1 + channels), f"{work:,.0f} multiply-adds at side {side}, C = {channels}, are wrong")
        require(size != 4 * pairs, "the bytes are those of float32: bfloat16 takes two a number")
        require(size != 2 * side**2, "these are the bytes of one row: the matrix has (HW)^2 numbers")
        require(size == 2 * pairs, f"{size:,.0f} bytes at side {side} are wrong")


@exercise("ex-top-places")
def top_places(answer):
    v = draw(31)
    v[v.abs().argmax()] = -4.0  # the largest size is negative
    got = numbers(call(answer, v), (31,), "the answer")
    high, low = v.argmax().item(), v.argmin().item()
    require(not (got == high).all(), "every query gets the largest v: negative queries turn to the smallest")
    require(not (got == v.abs().argmax().item()).all(), "every query gets the largest |v|: the sign of v_i decides")
    flipped = np.where(v.numpy() > 0, low, high)
    require(not (got == flipped).all(), "the two ends are swapped: v_i v_j is largest where both have one sign")
    require((got == np.where(v.numpy() > 0, high, low)).all(), "some top places are wrong")
    with Largest() as largest:
        call(answer, draw(1000))
    require(largest.elements <= 10_000, "the answers are right, but a matrix of all pairs was built on the way")


@exercise("ex-row-slope")
def row_slope(answer):
    v, values = draw(9), draw(9, 4, seed=1)
    for t in (0.7, -1.3):
        got = numbers(call(answer, t, v, values), (4,), "the slope")
        w, u, f = softmax(t * v.numpy()), v.numpy(), values.numpy()
        mu = (w * u).sum()
        require(not close(got, (w * u) @ f), "the mean is not subtracted: this is E[v F], not a covariance")
        require(not close(got, (u - u.mean()) @ f / 9), "the weights are even: take the softmax of t v")
        require(
            not close(got, (w * (u - u.mean())) @ f), "the mean of v is a plain one: weigh it with the softmax, too"
        )
        require(not close(got, w @ f), "this is phi(t) itself, not its slope")
        require(close(got, (w * (u - mu)) @ f), "the slope differs from the covariance of v and F under the softmax")


@exercise("ex-two-roles")
def two_roles(answer):
    v, values, pull = draw(7), draw(7, 3, seed=1), draw(7, 3, seed=2)
    got = numbers(call(answer, v.clone(), values, pull), (7,), "the gradient")
    u, f, p = v.numpy(), values.numpy(), pull.numpy()
    a, d = softmax(np.outer(u, u)), p @ f.T
    g = a * (d - (a * d).sum(1, keepdims=True))
    require(not close(got, g @ u), "v_i is counted as the query only: it is a key in every row as well")
    require(not close(got, g.T @ u), "v_i is counted as a key only: it is also the query of row i")
    require(not close(got, 2 * g @ u), "twice the query's part: the matrix of gradients is not symmetric")
    bare = a * d
    require(not close(got, (bare + bare.T) @ u), "the softmax is not normalised: subtract the sum over the row")
    require(close(got, (g + g.T) @ u), "the gradient differs from the derivative of sum(pull * out)")


@exercise("ex-knots")
def knots(answer):
    def bound(reach: float, knots: int, power: int = 8) -> float:
        return reach**power / (1536 * (knots - 1) ** 4)

    def smallest(reach: float, error: float, power: int = 8) -> int:
        return next(k for k in range(2, 10_000) if bound(reach, k, power) <= error)

    for reach, error in ((4, 1 / 512), (7.5, 1e-3), (2.5, 1e-6)):
        got = call(answer, reach, error)
        require(isinstance(got, int | float) and got == int(got), f"a number of knots is whole, and {got!r} is not")
        right = smallest(reach, error)
        require(got != right - 1, "one too few: K - 1 is the number of steps, and it is rounded up")
        require(got != right + 1, "one too many: this bound is kept with one knot less")
        require(got != smallest(reach, error, 4), "the range enters with its eighth power, not its fourth")
        require(got == right, f"range {reach} and error {error:g} need {right} knots, not {got:g}")
    require(call(answer, 0.5, 1.0) == 2, "a table needs two knots at least, however small the range")


@exercise("ex-fourth")
def fourth(answer):
    v, values = draw(9), draw(9, 4, seed=1)
    u, f = v.numpy(), values.numpy()
    for t in (0.7, -1.3):
        got = numbers(call(answer, t, v, values), (4,), "the derivative")
        w = softmax(t * u)

        def expected(second: float, third: float, w: np.ndarray = w, mean: float | None = None) -> np.ndarray:
            x = u - (w @ u if mean is None else mean)
            q = x**4 - second * (w @ x**2) * x**2 - third * (w @ x**3) * x
            return (w * (q - w @ q)) @ f

        require(not close(got, expected(0, 0)), "this is Cov(x^4, F): the terms with m2 and m3 are missing")
        require(not close(got, expected(6, 0)), "the term with m3 is missing")
        require(not close(got, expected(0, 4)), "the term with m2 is missing")
        require(not close(got, expected(3, 4)), "m2 has the factor 6, not 3")
        even = np.full(9, 1 / 9)
        require(not close(got, expected(6, 4, even)), "the weights are even: take the softmax of t v")
        require(not close(got, expected(6, 4, w, u.mean())), "the mean of v is a plain one: weigh it with the softmax")
        require(not close(got, expected(6, 4, w, 0.0)), "v is not centred: x is v less its mean under the weights")
        require(close(got, expected(6, 4)), "the value differs from the fourth derivative of phi")


@exercise("ex-distance")
def distance(answer):
    height, width, reach = 3, 5, 1.7
    v = draw(15)
    pair = call(answer, v, height, width, reach)
    require(isinstance(pair, tuple | list) and len(pair) == 2, "return a pair: the queries and the keys")
    require(all(isinstance(x, torch.Tensor) and x.dim() == 2 and len(x) == 15 for x in pair), "Q and K must be (HW, d)")
    q, k = (x.detach().double().numpy() for x in pair)
    require(q.shape == k.shape, f"Q is {q.shape} and K is {k.shape}: they need the same head size")
    got = softmax(q @ k.T)

    def target(size: int, weight: float = 0.5, content: float = 1.0, power: int = 1) -> np.ndarray:
        n = np.arange(15)
        x = np.stack([n // size, n % size], 1) / reach
        square = ((x[:, None] - x[None]) ** 2).sum(-1) ** power
        return softmax(content * np.outer(v, v) - weight * square)

    n = np.arange(15)
    x = np.stack([n // width, n % width], 1) / reach
    require(not close(got, softmax(np.outer(v, v) + x @ x.T)), "the keys lack -|x_j|^2 / 2: it changes along a row")
    require(not close(got, target(height)), "the places are numbered with the height: row i // W, column i % W")
    require(not close(got, target(width, 1.0)), "the penalty is twice too large: the half is missing")
    require(not close(got, target(width, 0.5, 0.0)), "only the distance is left: v_i v_j is missing")
    require(close(got, target(width)), "the row softmax of Q K^T differs from that of the penalised logits")
    require(q.shape[1] <= 4, f"right, with head size {q.shape[1]}: what is constant along a row can go, so 4 is enough")
