"""Classic mistakes in the problem set ps3_angular: the whole answer cell, wrong in one way."""

PRECISION_NUMBER = """

my_error = math.degrees((my_angles.cos().bfloat16().double().acos() - my_angles).abs().mean())
"""
SINE = """
def sine(x, w):
    return (x - (x @ w)[:, None] * w).norm(dim=1)


"""

LOSS = """
def margin_loss(theta, labels, s, margins):
    rows = np.arange(len(theta))
    turned = theta[rows, labels] + margins[labels]
    z = s * np.cos(theta)
    z[rows, labels] = s * np.where(turned <= np.pi, np.cos(turned), -2 - np.cos(turned))
    top = z.max(1)
    return float(np.mean(top + np.log(np.exp(z - top[:, None]).sum(1)) - z[rows, labels]))
"""

GRADIENT = """
def gradient(x, w, labels, s, margin):
    rows, length = np.arange(len(x)), np.linalg.norm(x, axis=1, keepdims=True)
    x, w = x / length, w / np.linalg.norm(w, axis=1, keepdims=True)
    c = x @ w.T
    theta = np.arccos(np.clip(c[rows, labels], -1, 1))
    z = s * c
    z[rows, labels] = s * np.cos(theta + margin)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    by_cosine = s * p
    by_cosine[rows, labels] = -s * (1 - p[rows, labels]) * np.sin(theta + margin) / np.sin(theta)
    sideways = by_cosine @ w - (by_cosine * c).sum(1, keepdims=True) * x
    return sideways / length / len(x)


my_pull = float(np.linalg.norm(gradient(my_x, my_w, my_labels, 16, 0.2)))
"""

WIDTH = """
def doubt_width(gap, s, p):
    sine = math.log(p / (1 - p)) / (2 * s * math.sin(gap / 2))
    return min(gap, 2 * math.asin(min(1.0, sine)))


"""
SCALE_NUMBER = """

my_scale = math.log(9) / (2 * math.sin(my_gap / 2) * math.sin(0.1))
"""


def changed(source: str, old: str, new: str) -> str:
    assert source.count(old) == 1, old
    return source.replace(old, new)


MISTAKES = {
    "cosine_logits": {
        "computed in float16, cast at the end": """
def cosine_logits(x, w, s):
    x, w = x / x.norm(dim=1, keepdim=True).clamp_min(1e-7), w / w.norm(dim=1, keepdim=True).clamp_min(1e-7)
    return s * (x.to(w.dtype) @ w.T).float()
""",
        "squared in float16": """
def cosine_logits(x, w, s):
    lengths = (x * x).sum(1, keepdim=True).float().sqrt()
    w = w.float()
    return s * (x.float() @ w.T) / lengths.clamp_min(1e-30) / w.norm(dim=1)
""",
        "a dead embedding is divided by zero": """
def cosine_logits(x, w, s):
    x, w = x.float(), w.float()
    return s * (x / x.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1, keepdim=True)).T
""",
        "the class weights keep their length": """
def cosine_logits(x, w, s):
    x = x.float()
    return s * (x / x.norm(dim=1, keepdim=True).clamp_min(1e-30)) @ w.float().T
""",
    },
    "precision": {
        "the sine from the cosine": """
def sine(x, w):
    c = x @ w
    return (1 - c * c).clamp_min(0).sqrt()
"""
        + PRECISION_NUMBER,
        "the arccosine in float64": """
def sine(x, w):
    return (x.double() @ w.double()).clamp(-1, 1).acos().sin().to(x.dtype)
"""
        + PRECISION_NUMBER,
        "the chord for the sine": """
def sine(x, w):
    return (x - w).norm(dim=1)
"""
        + PRECISION_NUMBER,
        "the error in radians": SINE
        + "my_error = float((my_angles.cos().bfloat16().double().acos() - my_angles).abs().mean())\n",
        "the angle is rounded and not the cosine": SINE
        + "my_error = math.degrees((my_angles.bfloat16().double() - my_angles).abs().mean())\n",
        "the errors cancel": SINE
        + "my_error = abs(math.degrees((my_angles.cos().bfloat16().double().acos() - my_angles).mean())) + 1e-9\n",
        "float16 for bfloat16": SINE
        + "my_error = math.degrees((my_angles.cos().half().double().acos() - my_angles).abs().mean())\n",
    },
    "margin_loss": {
        "the margins go onto every column": changed(
            LOSS,
            "    z = s * np.cos(theta)\n",
            "    z = s * np.cos(theta + margins)\n",
        ),
        "face i gets the margin of class i": changed(LOSS, "margins[labels]", "np.resize(margins, len(theta))"),
        "the margin outside the cosine": changed(
            LOSS,
            "np.where(turned <= np.pi, np.cos(turned), -2 - np.cos(turned))",
            "(np.cos(theta[rows, labels]) - margins[labels])",
        ),
        "the sum for the mean": changed(LOSS, "np.mean(top", "np.sum(top"),
        "the cosine rises again past pi": changed(
            LOSS, "np.where(turned <= np.pi, np.cos(turned), -2 - np.cos(turned))", "np.cos(turned)"
        ),
        "the exponential overflows": changed(LOSS, "top = z.max(1)", "top = np.zeros(len(z))"),
    },
    "gradient": {
        "the slope by the angle for the slope by the cosine": changed(GRADIENT, " / np.sin(theta)\n", "\n"),
        "the margin is missing in the slope": changed(GRADIENT, " * np.sin(theta + margin) / np.sin(theta)", ""),
        "the length of x is forgotten": changed(GRADIENT, "sideways / length / len(x)", "sideways / len(x)"),
        "the part along x stays": changed(GRADIENT, " - (by_cosine * c).sum(1, keepdims=True) * x", ""),
        "the sum for the mean": changed(GRADIENT, " / length / len(x)", " / length"),
        "the finite differences handed in": """
def gradient(x, w, labels, s, margin):
    return numeric_gradient(lambda v: mean_loss(v, w, labels, s, margin), x)


my_pull = float(np.linalg.norm(gradient(my_x, my_w, my_labels, 16, 0.2)))
""",
        "the largest entry for the length": changed(
            GRADIENT,
            "float(np.linalg.norm(gradient(my_x, my_w, my_labels, 16, 0.2)))",
            "float(np.abs(gradient(my_x, my_w, my_labels, 16, 0.2)).max())",
        ),
    },
    "scale": {
        "one side of the middle only": changed(WIDTH, "2 * math.asin", "math.asin") + SCALE_NUMBER,
        "the logarithm of p for the log odds": changed(WIDTH, "math.log(p / (1 - p))", "-math.log(1 - p)")
        + SCALE_NUMBER,
        "the gap for half the gap": changed(WIDTH, "math.sin(gap / 2)", "math.sin(gap)")
        + changed(SCALE_NUMBER, "my_gap / 2", "my_gap"),
        "the zone is wider than the gap": """
def doubt_width(gap, s, p):
    return 2 * math.asin(min(1.0, math.log(p / (1 - p)) / (2 * s * math.sin(gap / 2))))

"""
        + SCALE_NUMBER,
        "the margin on both sides": WIDTH + changed(SCALE_NUMBER, "math.sin(0.1)", "math.sin(0.2)"),
    },
}

LOSES = {
    "precision": dict.fromkeys(MISTAKES["precision"], 2),
    "margin_loss": {"the cosine rises again past pi": 2, "the exponential overflows": 2},
    "gradient": {"the finite differences handed in": 3, "the largest entry for the length": 1},
    "scale": {
        "one side of the middle only": 2,
        "the logarithm of p for the log odds": 2,
        "the zone is wider than the gap": 2,
        "the margin on both sides": 1,
    },
}
