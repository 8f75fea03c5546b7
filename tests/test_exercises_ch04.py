"""Answers to the exercises of chapter 4: right ones, the untouched stubs, and mistakes with a part of what is said."""

import math

import torch


def stub(*args):
    return None


def by_loops(v):
    out = torch.empty(len(v), v.shape[1], v.shape[1], dtype=v.dtype)
    for b, row in enumerate(v):
        for i, vi in enumerate(row):
            e = torch.exp(vi * row)
            out[b, i] = e / e.sum()
    return out


def products(v):
    return v[:, :, None] * v[:, None, :]


def phi(t, v, values):
    return torch.softmax(t[..., None] * v, -1) @ values


def slope_by_autograd(t, v, values):
    return torch.autograd.functional.jacobian(lambda s: phi(s, v, values), torch.tensor(t, dtype=v.dtype))


def grad_by_autograd(v, values, pull):
    v = v.clone().requires_grad_()
    return torch.autograd.grad(((torch.outer(v, v).softmax(1) @ values) * pull).sum(), v)[0]


def softmax_gradient(v, values, pull):
    a = torch.outer(v, v).softmax(1)
    d = pull @ values.T
    return a, d, a * d - a * (a * d).sum(1, keepdim=True)


def hermite(v, values, points, slopes=1.0):
    """The cubic through heights and slopes, by its coefficients in the power basis."""
    grid = v.min() + (v.max() - v.min()) * torch.linspace(0, 1, points, dtype=v.dtype)
    h = grid[1] - grid[0]
    w = (grid[:, None] * v).softmax(1)
    y, m = w @ values, (w * v) @ values - (w @ v)[:, None] * (w @ values)
    m = slopes * h * m
    i = torch.searchsorted(grid, v, right=True).sub(1).clamp(0, points - 2)
    s = ((v - grid[i]) / h)[:, None]
    y0, y1, m0, m1 = y[i], y[i + 1], m[i], m[i + 1]
    return y0 + s * (m0 + s * (3 * (y1 - y0) - 2 * m0 - m1 + s * (2 * (y0 - y1) + m0 + m1)))


def unscaled(v, values, points):
    h = (v.max() - v.min()) / (points - 1)
    return hermite(v, values, points, slopes=1 / h)


def straight(v, values, points):
    grid = torch.linspace(v.min().item(), v.max().item(), points, dtype=v.dtype)
    table = phi(grid, v, values)
    place = (v - grid[0]) / (grid[1] - grid[0])
    i = place.long().clamp(0, points - 2)
    return torch.lerp(table[i], table[i + 1], (place - i)[:, None])


def places(v, width, reach):
    n = torch.arange(len(v))
    return torch.stack([n // width, n % width], 1).to(v) / reach


def head_of_four(v, height, width, reach, numbering=None, length=0.5, content=1.0):
    x = places(v, numbering or width, reach)
    k = torch.column_stack([content * v, x, -length * x.square().sum(1)])
    return torch.column_stack([v, x, torch.ones_like(v)]), k


def head_of_five(v, height, width, reach):
    q, k = head_of_four(v, height, width, reach)
    x = places(v, width, reach)
    return torch.column_stack([q, -x.square().sum(1) / 2]), torch.column_stack([k, torch.ones_like(v)])


def doubled(v, height, width, reach):
    return head_of_four(v, height, width, reach / math.sqrt(2))


CASES = {
    "ex-spatial-map": {
        "right": [by_loops, lambda v: torch.softmax(products(v), -1)],
        "stub": stub,
        "wrong": {
            "over columns instead of rows": lambda v: products(v).softmax(1),
            "over the whole matrix": lambda v: products(v).flatten(1).softmax(1).view_as(products(v)),
            "over the batch": lambda v: products(v).softmax(0),
            "softmax is missing: these are the products": products,
            "divided by a root": lambda v: (products(v) / math.sqrt(v.shape[1])).softmax(-1),
            "has the shape": lambda v: (v * v).softmax(-1),
        },
    },
    "ex-spatial-cost": {
        "right": [lambda s, c: (s**4 + s**4 * c, 2 * s**4), lambda s, c: [float(s**4 * (c + 1)), s**4 * 2]],
        "stub": stub,
        "wrong": {
            "bytes are those of float32": lambda s, c: (s**4 * (c + 1), 4 * s**4),
            "the logits, or F A_s^T": lambda s, c: (s**4 * c, 2 * s**4),
            "products of one row only": lambda s, c: (s**2 * (c + 1), 2 * s**4),
            "bytes of one row": lambda s, c: (s**4 * (c + 1), 2 * s**2),
            "a pair: multiply-adds, bytes": lambda s, c: s**4,
        },
    },
    "ex-top-places": {
        "right": [
            lambda v: torch.where(v < 0, v.argmin(), v.argmax()),
            lambda v: torch.stack([v.argmin(), v.argmax()])[(v > 0).long()],
        ],
        "stub": stub,
        "wrong": {
            "negative queries turn to the smallest": lambda v: v.argmax().expand(len(v)),
            "the largest |v|": lambda v: v.abs().argmax().expand(len(v)),
            "two ends are swapped": lambda v: torch.where(v > 0, v.argmin(), v.argmax()),
            "a matrix of all pairs was built": lambda v: torch.outer(v, v).argmax(1),
        },
    },
    "ex-row-slope": {
        "right": [slope_by_autograd],
        "stub": stub,
        "wrong": {
            "this is E[v F], not a covariance": lambda t, v, f: ((t * v).softmax(0) * v) @ f,
            "take the softmax of t v": lambda t, v, f: (v - v.mean()) @ f / len(v),
            "weigh it with the softmax, too": lambda t, v, f: ((t * v).softmax(0) * (v - v.mean())) @ f,
            "not its slope": lambda t, v, f: (t * v).softmax(0) @ f,
        },
    },
    "ex-two-roles": {
        "right": [grad_by_autograd],
        "stub": stub,
        "wrong": {
            "as the query only": lambda v, f, p: softmax_gradient(v, f, p)[2] @ v,
            "as a key only": lambda v, f, p: softmax_gradient(v, f, p)[2].T @ v,
            "the matrix of gradients is not symmetric": lambda v, f, p: 2 * softmax_gradient(v, f, p)[2] @ v,
            "softmax is not normalised": lambda v, f, p: (lambda a, d, g: (a * d) @ v + (a * d).T @ v)(
                *softmax_gradient(v, f, p)
            ),
        },
    },
    "ex-hermite": {
        "right": [hermite],
        "stub": stub,
        "wrong": {
            "are the slopes multiplied by the step": unscaled,
            "better than straight lines": straight,
            "matrix of all pairs was built": lambda v, f, points: hermite(v, f, points) + 0 * torch.outer(v, v).sum(),
        },
    },
    "ex-distance": {
        "right": [head_of_four],
        "stub": stub,
        "wrong": {
            "keys lack": lambda v, h, w, r: head_of_four(v, h, w, r, length=0.0),
            "numbered with the height": lambda v, h, w, r: head_of_four(v, h, w, r, numbering=h),
            "twice too large": doubled,
            "v_i v_j is missing": lambda v, h, w, r: head_of_four(v, h, w, r, content=0.0),
            "so 4 is enough": head_of_five,
        },
    },
}
