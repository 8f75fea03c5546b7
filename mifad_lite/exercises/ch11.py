"""Checks of chapter 11: one knob, the exact p, faces needed, Holm's correction, two kinds of luck, a plan."""

import math
import statistics

import numpy as np

from . import call, exercise, require


@exercise("ex-one-knob")
def one_knob(answer):
    base = {"loss": "angular", "margin": 0.1, "seed": 0, "network": {"fusion": "concat", "scale": 16.0}}
    moved = {**base, "loss": "softmax", "seed": 3, "network": {"fusion": "concat", "scale": 8.0}}
    found = set(call(answer, base, moved))
    require("seed" not in found, "the seed is no knob: it repeats the experiment")
    require("network" not in found, "'network' is a box of knobs: look inside and name the one that was turned")
    require("scale" in found, "a knob inside network was missed: compare the inner dictionaries too")
    require(not found & {"margin", "fusion"}, "a knob was named that is the same in both")
    require(found == {"loss", "scale"}, f"loss and scale differ, your set is {sorted(found)}")
    require(set(call(answer, base, {**base, "seed": 1})) == set(), "two seeds of one arm must give the empty set")


@exercise("ex-exact-p")
def exact_p(answer):
    for b, c in ((9, 2), (40, 61), (5, 5), (0, 7), (0, 0), (1200, 1000)):
        p, n = float(call(answer, b, c)), b + c
        one_sided = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n
        right = min(1.0, 2 * one_sided)
        square = math.erfc(abs(b - c) / math.sqrt(2 * n)) if n else 1.0
        require(p <= 1, f"p = {p:g} for {b} against {c}: a probability cannot exceed 1")
        if abs(p - right) > 1e-9 * right:
            require(abs(p - one_sided) > 1e-9 * right, "this is one tail: the coin may fall to either side")
            shorter = 2 * (one_sided - math.comb(n, min(b, c)) / 2**n)
            require(abs(p - shorter) > 1e-9, "the observed split itself belongs to the tail: range(k) stops one early")
            require(abs(p - square) > 1e-9, "this is the normal approximation, not the exact binomial tail")
        require(abs(p - right) < 1e-9, f"for {b} against {c} the two tails hold {right:.6f}, not {p:.6f}")


@exercise("ex-paired-faces")
def paired_faces(answer):
    z, power = 1.959963984540054, 0.8416212335729143
    for gap, q in ((0.01, 0.2), (0.0197, 0.25), (0.05, 0.08)):
        n = float(call(answer, gap, q))
        right = ((z * math.sqrt(q) + power * math.sqrt(q - gap**2)) / gap) ** 2

        def close(value, n=n):
            return abs(n - value) < max(1.5, 2e-3 * value)  # 1.96 and 0.84 are right, too

        require(not close(z * z * q / gap**2), "with so many faces the chance is a half only: the power's z is missing")
        require(not close(right / 1e4), "the gap is a share: 1 point is 0.01")
        require(not close(math.sqrt(right)), "this is the root of the number: errors shrink with sqrt(n), so square it")
        require(not close(2 * right), "this counts the faces twice: both networks see the same ones")
        require(close(right), f"for a gap of {gap} and {q} of disagreement it takes {right:,.0f} faces, not {n:,.0f}")


@exercise("ex-holm")
def holm(answer):
    for p in ([0.01, 0.04, 0.03, 0.005], [0.2, 0.001], [0.02, 0.021, 0.5, 0.9, 0.001], [0.7, 0.6]):
        found = [float(v) for v in call(answer, list(p))]
        order = sorted(range(len(p)), key=p.__getitem__)
        raw = [min(1.0, (len(p) - order.index(i)) * p[i]) for i in range(len(p))]
        right = [max(raw[j] for j in order[: order.index(i) + 1]) for i in range(len(p))]

        def same(values, found=found):
            return len(found) == len(values) and max(abs(a - b) for a, b in zip(found, values, strict=True)) < 1e-9

        if same(right):
            continue
        bonferroni = [min(1.0, len(p) * v) for v in p]
        require(not same(bonferroni), "this is Bonferroni's: only the smallest p is multiplied by all of them")
        require(not same(sorted(right)), "the values are right but sorted: give each back to its own test")
        require(max(found) <= 1, "a corrected p above 1: cap it")
        require(not same(raw), "a larger p came out smaller than the one before it: keep the running maximum")
        require(False, f"for {p} it should be {[round(v, 4) for v in right]}")


@exercise("ex-two-lucks")
def two_lucks(answer):
    rng = np.random.default_rng(0)
    z = statistics.NormalDist().inv_cdf(0.975)
    for seeds, spread in ((3, 0.01), (5, 0.03), (3, 0.0)):
        hits = rng.random((2, seeds, 400)) < np.array([0.8, 0.75])[:, None, None]
        low, high = call(answer, *hits, spread)
        d = hits[0].mean(0) - hits[1].mean(0)
        images, starts = d.std() / 20, spread * math.sqrt(2 / seeds)
        require(low < high, "return the lower end first")
        require(abs((low + high) / 2 - d.mean()) < 1e-9, "the middle is not the mean difference, first minus second")

        def half(value, found=(high - low) / 2):
            return abs(found / z - value) < 3e-3 * value  # the variance over N or N - 1 faces

        if half(math.hypot(images, starts)):
            continue
        require(not half(images + starts), "the errors were added: add their squares, then take the root")
        require(not half(images), "only the images count here: the luck of the runs is missing")
        require(not half(math.hypot(images, spread / math.sqrt(seeds))), "two means differ, and each has its own luck")
        require(not half(math.hypot(images, spread * math.sqrt(2))), "the mean of S runs has less luck than one run")
        unpaired = math.hypot(*(h.mean(0).std() / 20 for h in hits))
        require(not half(math.hypot(unpaired, starts)), "this is unpaired: take the spread of the difference by image")
        require(False, f"half the width should be {z * math.hypot(images, starts):.4f}")


@exercise("ex-plan")
def plan(answer):
    z = 1.959963984540054 + 0.8416212335729143
    for gap, v, n, spread in ((0.02, 0.1, 3589, 0.01), (0.01, 0.1, 20_000, 0.006), (0.03, 0.15, 3000, 0.02)):
        found = float(call(answer, gap, v, n, spread))
        images, allowed = v / n, (gap / z) ** 2
        exact = 2 * spread**2 / (allowed - images)
        require(abs(found - exact) > 1e-9, "a part of a run cannot be done: round up")
        require(found != math.floor(exact), "rounded down, the chance stays below 80 %: round up")
        require(found != math.ceil(exact / 2), "the difference of two means has twice the variance of one mean")
        alone = math.ceil(2 * spread**2 / allowed)
        require(found != alone, "the test faces use up a part of the error that is allowed: subtract it")
        require(
            found == math.ceil(exact), f"a gap of {gap}, {n} faces, luck {spread}: {math.ceil(exact)} seeds are needed"
        )
    message = "the faces alone bring more error than is allowed, and no number of seeds helps: return math.inf"
    require(float(call(answer, 0.01, 0.1, 3589, 0.004)) == math.inf, message)
