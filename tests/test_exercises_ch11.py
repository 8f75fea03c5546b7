"""Right answers, stubs and classic mistakes for the exercises of chapter 11."""

import math

import numpy as np
from scipy.stats import binomtest, false_discovery_control, norm

Z, POWER = norm.ppf(0.975), norm.ppf(0.8)


def leaves(config, prefix=()):
    """Every knob with its place and value, boxes opened."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        elif key != "seed":
            yield (*prefix, key), value


def top_level(a, b):
    return {k for k in a if a[k] != b[k] and k not in ("network", "seed")}


def scipy_p(b, c):
    return binomtest(b, b + c).pvalue if b + c else 1.0


def tail(b, c, stop=1, sides=2):
    n = b + c
    return min(1.0, sides * sum(math.comb(n, k) for k in range(min(b, c) + stop)) / 2**n)


def faces(gap, q):
    return (Z * math.sqrt(q) + POWER * math.sqrt(q - gap * gap)) ** 2 / gap**2


def rounded_faces(gap, q):
    return ((1.96 * math.sqrt(q) + 0.84 * math.sqrt(q - gap**2)) / gap) ** 2  # the formula as it stands in the chapter


def step_down(p, running=True):
    """Holm by the definition: the smallest level at which the stepwise rule still reaches this test."""
    order, out, largest = np.argsort(p), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        value = min(1.0, p[i] * (len(p) - rank))
        largest = max(largest, value)
        out[i] = largest if running else value
    return out


def wide(a, b, spread, images=None, runs=None, join=np.hypot):
    d = a.mean(0) - b.mean(0)
    images = d.std() / np.sqrt(len(d)) if images is None else images(a, b)
    half = Z * join(images, spread * np.sqrt(2 / len(a)) if runs is None else runs(spread, len(a)))
    return d.mean() - half, d.mean() + half


def sample_spread(a, b):
    d = a.mean(0) - b.mean(0)
    return d.std(ddof=1) / np.sqrt(len(d))


def unpaired(a, b):
    return np.hypot(*(h.mean(0).std() / np.sqrt(h.shape[1]) for h in (a, b)))


def seeds(gap, v, n, spread, rounding=math.ceil, images=1.0, factor=2):
    left = (gap / (Z + POWER)) ** 2 - images * v / n
    return rounding(factor * spread**2 / left) if left > 0 else math.inf


def seeds_by_trying(gap, v, n, spread):
    for count in range(1, 10_000):
        if norm.cdf(gap / math.sqrt(v / n + 2 * spread**2 / count) - Z) >= 0.8:
            return count
    return math.inf


CASES = {
    "ex-one-knob": {
        "right": [
            lambda a, b: {key[-1] for key, _ in set(leaves(a)) ^ set(leaves(b))},
            lambda a, b: top_level(a, b) | {k for k in a["network"] if a["network"][k] != b["network"][k]},
        ],
        "stub": lambda a, b: ...,
        "wrong": {
            "seed is no knob": lambda a, b: {k for k in a if a[k] != b[k]},
            "box of knobs": lambda a, b: {k for k in a if a[k] != b[k]} - {"seed"},
            "inside network was missed": top_level,
            "same in both": lambda a, b: {*a, *a["network"]} - {"seed", "network"},
        },
    },
    "ex-exact-p": {
        "right": [scipy_p, tail],
        "stub": lambda b, c: None,
        "wrong": {
            "one tail": lambda b, c: tail(b, c, sides=1),
            "stops one early": lambda b, c: tail(b, c, stop=0),
            "normal approximation": lambda b, c: 2 * norm.sf(abs(b - c) / math.sqrt(b + c)) if b + c else 1.0,
            "cannot exceed 1": lambda b, c: 2 * sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c),
        },
    },
    "ex-paired-faces": {
        "right": [faces, lambda gap, q: math.ceil(faces(gap, q)), rounded_faces],
        "stub": lambda gap, q: ...,
        "wrong": {
            "power's z is missing": lambda gap, q: Z * Z * q / gap**2,
            "1 point is 0.01": lambda gap, q: faces(gap, q) / 1e4,
            "so square it": lambda gap, q: math.sqrt(faces(gap, q)),
            "counts the faces twice": lambda gap, q: 2 * faces(gap, q),
        },
    },
    "ex-holm": {
        "right": [step_down, lambda p: [max(step_down(p, False)[j] for j in range(len(p)) if p[j] <= v) for v in p]],
        "stub": lambda p: None,
        "wrong": {
            "Bonferroni": lambda p: [min(1.0, len(p) * v) for v in p],
            "right but sorted": lambda p: sorted(step_down(p)),
            "running maximum": lambda p: step_down(p, False),
            "it should be": lambda p: list(false_discovery_control(p)),
        },
    },
    "ex-two-lucks": {
        "right": [wide, lambda a, b, spread: wide(a, b, spread, images=sample_spread)],
        "stub": lambda a, b, spread: ...,
        "wrong": {
            "add their squares": lambda a, b, spread: wide(a, b, spread, join=np.add),
            "luck of the runs is missing": lambda a, b, spread: wide(a, b, 0),
            "each has its own luck": lambda a, b, spread: wide(a, b, spread, runs=lambda s, n: s / np.sqrt(n)),
            "less luck than one run": lambda a, b, spread: wide(a, b, spread, runs=lambda s, n: s * np.sqrt(2)),
            "difference by image": lambda a, b, spread: wide(a, b, spread, images=unpaired),
            "lower end first": lambda a, b, spread: wide(a, b, spread)[::-1],
        },
    },
    "ex-plan": {
        "right": [seeds, seeds_by_trying],
        "stub": lambda gap, q, n, spread: None,
        "wrong": {
            "part of a run": lambda *args: seeds(*args, rounding=float),
            "stays below 80 %": lambda *args: seeds(*args, rounding=math.floor),
            "twice the variance": lambda *args: seeds(*args, factor=1),
            "subtract it": lambda *args: seeds(*args, images=0.0),
            "return math.inf": lambda *args: seeds(*args) if seeds(*args) < math.inf else -1,
        },
    },
}
