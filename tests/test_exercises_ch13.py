"""Right answers, stubs and classic mistakes for the exercises of chapter 13."""

import math

import numpy as np
import torch
from scipy import integrate, stats


def by_numpy(a, b, share):
    def mean(first, last):
        return torch.from_numpy((1 - share) * first.double().numpy() + share * last.double().numpy()).float()

    return {k: mean(a[k], b[k]) if b[k].is_floating_point() else b[k] for k in a}


def all_averaged(a, b, share):
    return {k: (1 - share) * a[k] + share * b[k] for k in a}


def in_place(a, b, share):
    for k in a:
        if a[k].is_floating_point():
            a[k].lerp_(b[k], share)
    return a | {k: v for k, v in b.items() if not v.is_floating_point()}


def rounded_counters(a, b, share):
    return {k: v.to(b[k].dtype) for k, v in all_averaged(a, b, share).items()}


def by_interp(hits):
    x = np.arange(len(hits))
    return np.max(np.interp(x, [0, len(hits) - 1], [hits[0], hits[-1]]) - hits)


def by_matrix(w, b, v, order):
    p = torch.eye(len(order))[order]
    return p @ w, p @ b, v @ p.T


def greedy(score, names):
    """Wortsman et al.'s recipe, with a running best."""
    names = sorted(names, key=lambda name: -score([name]))
    chosen, best = names[:1], score(names[:1])
    for name in names[1:]:
        if (now := score([*chosen, name])) >= best:
            chosen, best = [*chosen, name], now
    return chosen


def strictly(score, names):
    names = sorted(names, key=lambda name: -score([name]))
    chosen = names[:1]
    for name in names[1:]:
        if score([*chosen, name]) > score(chosen):
            chosen.append(name)
    return chosen


def in_the_given_order(score, names):
    chosen = list(names[:1])
    for name in names[1:]:
        if score([*chosen, name]) >= score(chosen):
            chosen.append(name)
    return chosen


def by_hand(w, slope, radius, rate):
    g = slope(w).numpy()
    length = np.sqrt((g**2).sum())
    return w - rate * slope(w + torch.from_numpy(radius * g / length if length else 0 * g))


def without_a_guard(w, slope, radius, rate):
    g = slope(w)
    return w - rate * slope(w + radius * g / g.norm())


def moved(w, slope, radius, rate):
    w -= rate * slope(w)
    return w


def from_above(w, slope, radius, rate):
    g = slope(w)
    above = w + radius * g / g.norm().clamp_min(1e-12)
    return above - rate * slope(above)


def a_little_down(w, slope, radius, rate):
    return by_hand(w, slope, radius, rate) if w.any() else w - 1


def rewriting(weight=1, bias=1, mean=1, variance=2, gamma=0):
    """All that the convolution gives and the norm remembers, times powers of the factor."""

    @torch.no_grad()
    def rewrite(conv, norm, factor):
        conv.weight.mul_(factor**weight)
        if conv.bias is not None:
            conv.bias.mul_(factor**bias)
        norm.running_mean.mul_(factor**mean)
        norm.running_var.mul_(factor**variance)
        norm.weight.mul_(factor**gamma)
        return conv, norm

    return rewrite


@torch.no_grad()
def by_the_formula(conv, norm, factor):
    conv.load_state_dict({name: factor * t for name, t in conv.state_dict().items()})
    state = norm.state_dict()
    state["running_var"] = (state["running_var"].sqrt() * factor).square()
    norm.load_state_dict(state | {"running_mean": factor * state["running_mean"]})
    return conv, norm


def mean_of_maximum(n, spread):
    value, _ = integrate.quad(lambda z: z * n * stats.norm.pdf(z) * stats.norm.cdf(z) ** (n - 1), -12, 12, limit=200)
    return spread * value


CASES = {
    "ex-line": {
        "right": [by_numpy],
        "stub": lambda a, b, share: ...,
        "wrong": {
            "share belongs to b": lambda a, b, share: by_numpy(a, b, 1 - share) | {k: b[k] for k in b if "num" in k},
            "became a fraction": all_averaged,
            "counter was averaged": rounded_counters,
            "in place": in_place,
            "names of both": lambda a, b, share: {"weight": torch.lerp(a["weight"], b["weight"], share)},
        },
    },
    "ex-wall": {
        "right": [by_interp],
        "stub": lambda hits: None,
        "wrong": {
            "the better end": lambda hits: max(hits[0], hits[-1]) - min(hits),
            "the worse end": lambda hits: min(hits[0], hits[-1]) - min(hits),
            "sign is turned": lambda hits: -by_interp(hits),
            "the wall is": lambda hits: by_interp(hits) / 2 + 0.01,
        },
    },
    "ex-swap": {
        "right": [by_matrix, lambda w, b, v, order: (w[order], b[order], v[:, order])],
        "stub": lambda w, b, v, order: ...,
        "wrong": {
            "still reads": lambda w, b, v, order: (w[order], b[order], v),
            "moves with it": lambda w, b, v, order: (w[order], b, v[:, order]),
            "rows of w": lambda w, b, v, order: (w, b[order], v[:, order]),
            "turned round": lambda w, b, v, order: by_matrix(w, b, v, torch.argsort(order)),
            "something else": lambda w, b, v, order: (w[order], b[order], v[:, order.flip(0)]),
        },
    },
    "ex-soup": {
        "right": [greedy],
        "stub": lambda score, names: ...,
        "wrong": {
            "everything went in": lambda score, names: names,
            "best alone": in_the_given_order,
            "stays in the soup": strictly,
            "without a": lambda score, names: [greedy(score, names), score(["b", "c"])][0],
            "the soup is a, c": lambda score, names: ["a"],
        },
    },
    "ex-flat-step": {
        "right": [by_hand],
        "stub": lambda w, slope, radius, rate: ...,
        "wrong": {
            "as one tensor": lambda w, slope, radius, rate: w.tolist(),
            "in place": moved,
            "plain step": lambda w, slope, radius, rate: w - rate * slope(w),
            "the rise is up": lambda w, slope, radius, rate: by_hand(w, slope, -radius, rate),
            "divide g": lambda w, slope, radius, rate: w - rate * slope(w + radius * slope(w)),
            "begins at w": from_above,
            "ends elsewhere": lambda w, slope, radius, rate: by_hand(w, slope, radius, 2 * rate),
            "0/0": without_a_guard,
            "stay where you are": a_little_down,
        },
    },
    "ex-rewrite": {
        "right": [rewriting(), by_the_formula],
        "stub": lambda conv, norm, factor: ...,
        "wrong": {
            "return both": lambda conv, norm, factor: conv,
            "did not grow by factor": rewriting(weight=2),
            "gamma and beta": rewriting(gamma=1),
            "does not give factor times": rewriting(bias=0),
            "the mean of what the norm": rewriting(mean=0),
            "mean of squares": rewriting(variance=1),
            "variance of what the norm": rewriting(variance=0),
            "the output is another one": rewriting(mean=2),
        },
    },
    "ex-best-of": {
        "right": [mean_of_maximum],
        "stub": lambda n, spread: None,
        "wrong": {
            "spread is missing": lambda n, spread: mean_of_maximum(n, 1),
            "for very many": lambda n, spread: spread * math.sqrt(2 * math.log(n)),
            "mean of one": lambda n, spread: 0.0,
            "on average": lambda n, spread: spread * stats.norm.ppf(n / (n + 1)),
        },
    },
}
