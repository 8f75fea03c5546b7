"""The geometry of the margin (paper Figure 8) in numpy and float64: logits, gradients and boundaries as angles.

All losses here read one form. With theta_j the angle to class j and y the true class,

    z_j = s_j cos(theta_j) + b_j,    z_y = s_y (psi(theta_y, m) - drop) + b_y,    loss = -log softmax(z)_y.

| loss               | s_j        | b_j | m | drop |                         |
|--------------------|------------|-----|---|------|-------------------------|
| softmax            | |x| |W_j|  | b_j | 0 | 0    |                         |
| normalised softmax | s          | 0   | 0 | 0    | NormFace                |
| angular distance   | s          | 0   | m | 0    | ArcFace, and this paper |
| cosine margin      | s          | 0   | 0 | m    | CosFace                 |

Angles are radians. psi is cos(theta + m), continued past pi so that it never rises.
"""

import numpy as np


def psi(theta, m=0.0) -> np.ndarray:
    """cos(theta + m) for theta in [0, pi]; where theta + m > pi it goes on falling as -2 - cos(theta + m)."""
    shifted = np.cos(np.add(theta, m))
    return np.where(np.add(theta, m) <= np.pi, shifted, -2 - shifted)


def psi_slope(theta, m=0.0) -> np.ndarray:
    """d psi / d theta, never positive."""
    return -np.abs(np.sin(np.add(theta, m)))


def wrap(angle) -> np.ndarray:
    """The same angle in [-pi, pi)."""
    return (np.asarray(angle, float) + np.pi) % (2 * np.pi) - np.pi


def angle_between(x, w) -> np.ndarray:
    """Angles in [0, pi] between rows x (N, E) and w (K, E): (N, K). Exact near 0 and pi too, unlike the arc cosine."""
    x, w = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (np.asarray(x, float), np.asarray(w, float)))
    x = x[:, None]
    return 2 * np.arctan2(np.linalg.norm(x - w, axis=-1), np.linalg.norm(x + w, axis=-1))


def logits(theta, true, s=1.0, bias=0.0, m=0.0, drop=0.0) -> np.ndarray:
    """z for angles theta (..., K) and the true class (an index). s and bias: one number, or K of them."""
    theta = np.asarray(theta, float)
    own = np.arange(theta.shape[-1]) == true
    return s * np.where(own, psi(theta, m) - drop, np.cos(theta)) + bias


def probabilities(z) -> np.ndarray:
    """Softmax over the last axis."""
    e = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def loss(z, true) -> np.ndarray:
    """-log softmax(z)_true, without overflow."""
    top = np.max(z, axis=-1)
    return top + np.log(np.exp(z - top[..., None]).sum(-1)) - z[..., true]


def gradient(theta, true, s=1.0, bias=0.0, m=0.0, drop=0.0) -> np.ndarray:
    """d loss / d theta_j (..., K), each angle moved on its own.

    s (1 - p_y) |sin(theta_y + m)| for the true class: never negative, so descent brings it nearer. -s p_j sin(theta_j)
    for the others: never positive.
    """
    theta = np.asarray(theta, float)
    own = np.arange(theta.shape[-1]) == true
    p = probabilities(logits(theta, true, s, bias, m, drop))
    return (p - own) * s * np.where(own, psi_slope(theta, m), -np.sin(theta))


# --- in the plane: classes and sample are directions, given by their angle ------------------------------------------


def on_circle(phi, angles) -> np.ndarray:
    """theta_j (..., K) of a sample at angle phi for classes at `angles` (K,)."""
    return np.abs(wrap(np.asarray(phi, float)[..., None] - angles))


def gradient_on_circle(phi, angles, true, **rule) -> np.ndarray:
    """d loss / d phi: what is left for a sample that can only move along the circle. `rule`: as for `gradient`."""
    side = np.sign(wrap(np.asarray(phi, float)[..., None] - angles))  # theta_j grows with phi, or falls
    return (gradient(on_circle(phi, angles), true, **rule) * side).sum(-1)


def region(angles, own, s=1.0, bias=0.0, m=0.0, drop=0.0) -> tuple[float, float] | None:
    """The arc (low, high) where the loss of class `own` puts its logit above the rival's; None where there is none.

    angles: of the two classes.  own: 0 or 1.  s, bias: one number or two.
    Without m: (s_y W_y - s_r W_r) . x > b_r - b_y + s_y drop, the circle cut by a straight line.
    With m: theta_r - theta_y > m, an arc of pi - m around the same middle; none at all once m reaches the angle between
    the classes. Raises ValueError for m together with unequal s, a bias or a drop.
    """
    (s_own, s_rival), (b_own, b_rival) = ([np.broadcast_to(v, 2)[k] for k in (own, 1 - own)] for v in (s, bias))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (2, 2)
    normal = s_own * directions[own] - s_rival * directions[1 - own]
    length, middle = np.hypot(*normal), np.arctan2(normal[1], normal[0])
    if m:
        if s_own != s_rival or b_own != b_rival or drop:
            raise ValueError("an arc with an angular margin needs one scale, no bias and no cosine margin")
        half = (np.pi - m) / 2 if m < on_circle(angles[own], angles)[1 - own] else 0.0
    else:
        threshold = b_rival - b_own + s_own * drop
        half = np.arccos(np.clip(threshold / length, -1, 1)) if length > 0 else np.pi * (threshold < 0)
    return (float(middle - half), float(middle + half)) if half > 0 else None


def band_width(gap, m=0.0, drop=0.0) -> np.ndarray:
    """Angle between the boundaries that the two classes' own losses draw, for normalised classes `gap` apart.

    Class y's boundary lies at theta_y = (gap - width) / 2 on the way to its rival. With m alone the width is m,
    whatever the gap. NaN where a boundary would lie behind the class direction: the margin asks for more than there is.
    """
    sine = np.divide(drop, 2 * np.sin((np.asarray(gap, float) + m) / 2))
    width = m + 2 * np.arcsin(np.clip(sine, -1, 1))
    return np.where((sine <= 1) & (width <= gap), width, np.nan)


# --- on the sphere, and how far apart classes can be ----------------------------------------------------------------


def sphere_boundary(own, rival, m=0.0, drop=0.0, n=400) -> np.ndarray:
    """Points (2 n, 3) of the unit sphere where psi(theta_own, m) - drop = cos(theta_rival): a closed loop, or (0, 3).

    own, rival: class directions (3,), neither equal nor opposite (ValueError).  m, drop: as for `region`.
    With x = a u + b v + c w, u along own - rival and v along own + rival, the two cosines fix a and b, and |x| = 1
    fixes c but for its sign.
    """
    own, rival = (np.asarray(d, float) / np.linalg.norm(d) for d in (own, rival))
    difference, total = np.linalg.norm(own - rival), np.linalg.norm(own + rival)
    if min(difference, total) < 1e-9:
        raise ValueError("the class directions must be neither equal nor opposite")
    arc = region([0.0, 2 * np.arctan2(difference, total)], 0, m=m, drop=drop)
    if arc is None:
        return np.zeros((0, 3))
    first, last = np.abs(wrap(arc))  # theta_own where the loop meets the plane of the two classes
    theta = (first + last + (last - first) * np.cos(np.linspace(0, np.pi, n))) / 2  # denser where the loop turns
    a, b = (np.cos(theta) - psi(theta, m) + drop) / difference, (np.cos(theta) + psi(theta, m) - drop) / total
    u, v = (own - rival) / difference, (own + rival) / total
    inside = a[:, None] * u + b[:, None] * v
    across = np.sqrt(np.maximum(1 - a * a - b * b, 0))[:, None] * np.cross(u, v)
    return np.concatenate([inside + across, (inside - across)[::-1]])


def simplex_gap(classes: int) -> float:
    """The largest angle that all pairs of K directions can have, arccos(-1/(K-1)); it takes K - 1 dimensions."""
    return float(np.arccos(-1 / (classes - 1)))


def loss_floor(classes: int, s: float, m=0.0, drop=0.0) -> float:
    """The loss of a sample on its own class direction, all K directions as far apart as they can be."""
    return float(np.log1p((classes - 1) * np.exp(s * (np.cos(simplex_gap(classes)) - np.cos(m) + drop))))


def scale_for(classes: int, probability: float) -> float:
    """The s at which that sample's probability is `probability`, without margin: ((K-1)/K) ln((K-1) p / (1-p))."""
    k = classes - 1
    return float(k / classes * np.log(k * probability / (1 - probability)))
