"""Chapter 7: the geometry of the margin."""

import numpy as np
import torch

from . import call, exercise, require


def close(a, b, tolerance=1e-4) -> bool:
    return bool(np.allclose(np.asarray(a, float), np.asarray(b, float), atol=tolerance, rtol=tolerance))


@exercise("ex-boundary-norms")
def boundary_norms(answer):
    """theta_1 where |W_1| cos(theta_1) = |W_2| cos(gap - theta_1), from the normal of the boundary as a vector."""
    for n1, n2, gap in ((1.0, 1.0, 1.2), (2.0, 1.0, 1.0), (1.0, 3.0, 2.0)):
        w1, w2 = n1 * np.exp(0j), n2 * np.exp(1j * gap)
        along = 1j * (w1 - w2)  # at right angles to W_1 - W_2; of its two directions the one between the classes
        right = float(np.angle(along if along.imag > 0 else -along))
        got = call(answer, n1, n2, gap)
        if n1 != n2:
            require(not close(got, gap / 2), "that is the bisector: the lengths of the class weights are forgotten")
            require(not close(got, gap - right), "the two lengths are exchanged: a longer W_1 pushes the boundary away")
        require(not close(got, np.degrees(right)), "the angle is in degrees, radians are asked for")
        require(close(got, right), f"for lengths {n1}, {n2} and a gap of {gap} expected {right:.4f}, got {got:.4f}")


@exercise("ex-cosface")
def cosface(answer):
    cosines = np.array([[0.7, 0.5, -0.2], [0.1, 0.6, 0.3], [-0.4, 0.0, -0.1], [0.95, -0.5, 0.2]])
    labels, s, m = np.array([0, 1, 2, 1]), 8.0, 0.3
    true = np.eye(3)[labels]

    def loss_of(z):
        z = z - z.max(1, keepdims=True)
        return float(np.mean(np.log(np.exp(z).sum(1)) - (z * true).sum(1)))

    got = float(call(answer, torch.tensor(cosines), torch.tensor(labels), s, m))
    for z, mistake in (
        (s * cosines, "the margin is missing: this is the normalised softmax"),
        (
            s * (cosines + m * true),
            "the margin makes the task easier: subtract it from the true class's cosine",
        ),
        (s * cosines - m * true, "the margin is subtracted after the scale: it belongs inside, s (cos - m)"),
        (s * np.cos(np.arccos(cosines) + m * true), "the margin is added to the angle: that is the angular loss"),
    ):
        require(not close(got, loss_of(z)), mistake)
    right = loss_of(s * (cosines - m * true))
    require(not close(got, 4 * right), "the losses are summed: take the mean over the batch")
    require(close(got, right), f"expected {right:.4f}, got {got:.4f}")


@exercise("ex-margin-gradient")
def margin_gradient(answer):
    """Compared with finite differences of the loss over angles."""
    for theta, true, s, m in (([0.6, 1.1, 2.0], 0, 4.0, 0.4), ([0.9, 0.8, 1.5], 1, 8.0, 0.2)):
        theta = np.array(theta)
        own = np.arange(3) == true

        def loss(t, m=m, own=own, s=s, true=true):
            z = s * np.cos(t + m * own)
            return np.log(np.exp(z).sum()) - z[true]

        right = np.array([(loss(theta + e) - loss(theta - e)) / 2e-6 for e in 1e-6 * np.eye(3)])
        plain = np.array([(loss(theta + e, 0) - loss(theta - e, 0)) / 2e-6 for e in 1e-6 * np.eye(3)])
        z = s * np.cos(theta + m * own)
        p = np.exp(z) / np.exp(z).sum()
        got = np.asarray(call(answer, theta.copy(), true, s, m), float)
        require(got.shape == (3,), f"one number for each angle is expected, got shape {got.shape}")
        require(not close(got, plain), "that is the gradient without margin: m is missing")
        require(not close(got, -right), "the sign is turned round: descent would widen the true angle")
        require(not close(got * s, right), "the factor s is missing: it scales the logits, so it scales the slope")
        no_margin_in_sine = -(p - own) * s * np.sin(theta)
        require(
            not close(got, no_margin_in_sine),
            "m is not in the sine, but cos(theta + m) falls by sin(theta + m)",
        )
        require(close(got[~own], right[~own]), "the rivals' entries are wrong: each is -s p_j sin(theta_j)")
        require(close(got, right), f"expected {np.round(right, 4).tolist()}, got {np.round(got, 4).tolist()}")


@exercise("ex-seam")
def seam(answer):
    for m in (0.2, 0.5, 1.0):
        right = (np.cos(np.pi - m) - m * np.sin(np.pi - m)) - np.cos(np.pi)
        got = call(answer, m)
        require(not close(got, -right), "the sign is turned round: the step is the value after less the value before")
        require(not close(got, 1 - np.cos(m)), "the term m sin(m) is missing")
        at_pi = (-1 - m * np.sin(m)) - np.cos(np.pi + m)
        require(not close(got, at_pi), "the seam is where theta + m = pi, not where theta = pi")
        require(not close(got, 0), "the two pieces do not meet: put theta = pi - m into both")
        require(close(got, right), f"for m = {m} expected {right:.4f}, got {got:.4f}")


@exercise("ex-largest-margin")
def largest_margin(answer):
    """Compared with the smallest angle between class directions that are built and measured."""
    for k, e in ((3, 2), (7, 2), (12, 2), (7, 6), (7, 128), (2, 1)):
        if e >= k - 1:
            directions = np.eye(k) - 1 / k
        else:
            turn = 2 * np.pi * np.arange(k) / k
            directions = np.stack([np.cos(turn), np.sin(turn)], 1)
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        right = float(np.arccos(np.clip((unit @ unit.T)[~np.eye(k, dtype=bool)].max(), -1, 1)))
        got = call(answer, k, e)
        require(not close(got, right / 2), "that is the way to the bisector: between the classes lies twice as much")
        require(not close(got, np.degrees(right)), "the angle is in degrees, radians are asked for")
        if k > 3 and e >= k - 1:
            require(not close(got, 2 * np.pi / k), "for E >= K - 1 there is more room than on a circle")
            require(not close(got, np.pi - right), "the sign is lost: the cosine between two corners is -1/(K - 1)")
        if k > 3 and e < k - 1:
            require(
                not close(got, np.arccos(-1 / (k - 1))), "the simplex does not fit on a circle: K classes share 2 pi"
            )
        require(close(got, right), f"for K = {k} and E = {e} expected {right:.4f}, got {got:.4f}")


@exercise("ex-rare-margin")
def rare_margin(answer):
    for counts, largest in (([1600, 100, 400], 0.5), ([436, 7215, 3171], 0.3)):
        n = np.array(counts, float)
        right = largest * (n.min() / n) ** 0.25
        got = np.asarray(call(answer, list(counts), largest), float)
        require(got.shape == right.shape, f"one margin for each class is expected, got shape {got.shape}")
        require(got[n.argmin()] >= got[n.argmax()] - 1e-9, "a frequent class got the most: the rare one needs it")
        require(not close(got, largest * (n.min() / n) ** 0.5), "that is the square root: the fourth root is asked for")
        require(not close(got, largest * n.min() / n), "that is 1/n: the fourth root is missing")
        require(close(got.max(), largest), f"the largest margin is {got.max():.3g}, asked for is {largest}")
        require(close(got, right), f"expected {np.round(right, 3).tolist()}, got {np.round(got, 3).tolist()}")
