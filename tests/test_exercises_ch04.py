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


def knots_by_search(reach, error):
    knots = 2
    while (reach / (knots - 1)) ** 4 / 384 * reach**4 / 4 > error:
        knots += 1
    return knots


def steps(reach, error):
    return (reach**8 / 1536 / error) ** 0.25


def fourth_by_autograd(t, v, values):
    t = torch.tensor(t, dtype=v.dtype, requires_grad=True)
    found = []
    for column in values.T:
        height = phi(t, v, column)
        for _ in range(4):
            (height,) = torch.autograd.grad(height, t, create_graph=True)
        found.append(height.detach())
    return torch.stack(found)


def moments(t, v, values, second=6.0, third=4.0, even=False, mean=None):
    """Cov(q, F) by expectations: E[q F] - E[q] E[F]."""
    w = torch.full_like(v, 1 / len(v)) if even else (t * v).softmax(0)
    x = v - ((w * v).sum() if mean is None else mean)
    q = x**4 - second * (w * x**2).sum() * x**2 - third * (w * x**3).sum() * x
    return (w * q) @ values - (w * q).sum() * (w @ values)


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
    "ex-knots": {
        "right": [knots_by_search, lambda r, e: 1.0 + max(1, math.ceil(steps(r, e)))],
        "stub": stub,
        "wrong": {
            "one too few": lambda r, e: max(1, math.ceil(steps(r, e))),
            "one too many": lambda r, e: 2 + max(1, math.ceil(steps(r, e))),
            "not its fourth": lambda r, e: 1 + max(1, math.ceil(steps(math.sqrt(r), e))),
            "is whole": lambda r, e: 1 + steps(r, e),
            "two knots at least": lambda r, e: 1 + math.floor(steps(r, e) + 1 - 1e-9) if r > 1 else 1,
            "knots, not": lambda r, e: 3 + 2 * math.ceil(steps(r, e)),
        },
    },
    "ex-fourth": {
        "right": [fourth_by_autograd, moments],
        "stub": stub,
        "wrong": {
            "terms with m2 and m3 are missing": lambda t, v, f: moments(t, v, f, 0, 0),
            "term with m3 is missing": lambda t, v, f: moments(t, v, f, third=0),
            "term with m2 is missing": lambda t, v, f: moments(t, v, f, second=0),
            "the factor 6, not 3": lambda t, v, f: moments(t, v, f, second=3),
            "take the softmax of t v": lambda t, v, f: moments(t, v, f, even=True),
            "weigh it with the softmax": lambda t, v, f: moments(t, v, f, mean=v.mean()),
            "v is not centred": lambda t, v, f: moments(t, v, f, mean=0.0),
            "differs from the fourth derivative": lambda t, v, f: slope_by_autograd(t, v, f),
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
