"""Classic mistakes of problem set 1: each is the whole code of an answer cell, wrong in the way that its title says."""

CHANNEL = """
def channel_attention(x, real, p):
    inside = real[:, None]
    mean = (x * inside).sum((2, 3)) / inside.sum((2, 3))
    peak = x.masked_fill(~inside, -torch.inf).amax((2, 3))
    z = (mean + peak) @ p["conv.weight"][:, :, 0, 0].T + p["conv.bias"]
    z = torch.where(z > 0, z, p["act.weight"] * z)
    v = (z - p["norm.running_mean"]) / (p["norm.running_var"] + 1e-5).sqrt() * p["norm.weight"] + p["norm.bias"]
    weights = torch.softmax(v[:, :, None] * v[:, None, :], dim=2)
    return x + p["alpha"] * torch.einsum("bij,bjhw->bihw", weights, x), weights
"""

STREAM = """
def stream(v, values, block):
    peak = torch.maximum(v * v.max(), v * v.min())
    top, total = torch.zeros_like(values), torch.zeros_like(v)
    for keys, some in zip(v.split(block), values.split(block)):
        e = torch.exp(v[:, None] * keys - peak[:, None])
        top = top + e @ some
        total = total + e.sum(1)
    return top / total[:, None]
"""

BACK = """
def pull_back(v, values, beta, pull):
    weights = torch.softmax(torch.outer(v, v), dim=1)
    return pull + beta * weights.T @ pull, (pull * (weights @ values)).sum()
"""

FIRST = """
mixed = torch.softmax(torch.outer(v_own, v_own), dim=1) @ F_own
BETA_1 = 0.5 * ((T_own - F_own) * mixed).sum().item() / 36
BETA_BEST = (((T_own - F_own) * mixed).sum() / (mixed * mixed).sum()).item()
"""

JUDGE = """
def equivariant(f, places, channels):
    x = torch.randn(places, channels, dtype=torch.float64)
    out = f(x)
    for i in range(places - 1):
        perm = torch.arange(places)
        perm[[i, i + 1]] = perm[[i + 1, i]]
        if not torch.allclose(f(x[perm]), out[perm], atol=1e-9):
            return False
    return True
"""

FITS = """
def largest_side(memory, faces, blocks, channels, size, plain):
    side = 0
    while True:
        n = (side + 1) ** 2
        held = n * n * plain + n * channels + n
        if faces * blocks * size * held > memory:
            return side
        side += 1


SIDE_PLAIN, SIDE_BLOCKS = (largest_side(**own_machine, plain=plain) for plain in (True, False))
"""


def wrong(right: str, *changes: tuple[str, str]) -> str:
    """The right answer with some of its words replaced."""
    for old, new in changes:
        assert right.count(old) == 1, old
        right = right.replace(old, new)
    return right


MISTAKES = {
    "channel": {
        "the softmax runs over the columns": wrong(CHANNEL, ("dim=2)", "dim=1)")),
        "ReLU in place of PReLU": wrong(CHANNEL, ('p["act.weight"] * z', "0 * z")),
        "the map is applied transposed": wrong(CHANNEL, ("bij,bjhw->bihw", "bji,bjhw->bihw")),
        "the residual is forgotten": wrong(CHANNEL, ("return x + ", "return ")),
        "the zeros of the filling take part in the maximum": wrong(CHANNEL, ("~inside, -torch.inf", "~inside, 0.0")),
        "the mean divides by all places": wrong(CHANNEL, ("inside.sum((2, 3))", "(x.shape[2] * x.shape[3])")),
        "the filling is ignored": wrong(CHANNEL, ("inside = real[:, None]", "inside = torch.ones_like(real)[:, None]")),
    },
    "stream": {
        "nothing keeps the exponentials from overflowing": wrong(STREAM, (" - peak[:, None]", "")),
        "rows of negative v are lifted by the wrong end": wrong(
            STREAM, ("torch.maximum(v * v.max(), v * v.min())", "v * v.max()")
        ),
        "the largest logit of all rows serves each row": wrong(
            STREAM, ("torch.maximum(v * v.max(), v * v.min())", "(v.abs().max() ** 2).expand(len(v))")
        ),
        "a softmax within each block": wrong(
            STREAM, ("torch.exp(v[:, None] * keys - peak[:, None])", "torch.softmax(v[:, None] * keys, dim=1)")
        ),
        "the peak moves and the sums are not rescaled": wrong(
            STREAM, ("peak[:, None])", "(v[:, None] * keys).amax(1, keepdim=True))")
        ),
        "an incomplete last block is dropped": wrong(
            STREAM,
            ("v.split(block),", "v[: len(v) // block * block].split(block),"),
            ("values.split(block))", "values[: len(v) // block * block].split(block))"),
        ),
        "the whole matrix at once": """
def stream(v, values, block):
    return torch.softmax(torch.outer(v, v), dim=1) @ values
""",
    },
    "back": {
        "what a place hears, not who heard it": wrong(BACK, ("weights.T @ pull", "weights @ pull")),
        "the residual's gradient is forgotten": wrong(BACK, ("return pull + ", "return ")),
        "the gradient for beta carries beta": wrong(BACK, (", (pull *", ", beta * (pull *")),
        "the gradient for beta is one number a channel": wrong(BACK, ("values)).sum()", "values)).sum(0)")),
    },
    "first": {
        "a step up the slope": wrong(FIRST, ("BETA_1 = 0.5", "BETA_1 = -0.5")),
        "the mean over places is forgotten": wrong(FIRST, (".item() / 36", ".item()")),
        "the residual is forgotten": FIRST.replace("(T_own - F_own)", "T_own"),
        "the softmax runs over the columns": wrong(FIRST, ("dim=1", "dim=0")),
        "one step is taken for the lowest point": FIRST + "BETA_BEST = BETA_1\n",
        "numbers that were typed in": "BETA_1, BETA_BEST = 0.4071, 0.1339\n",
    },
    "judge": {
        "invariance in place of equivariance": wrong(JUDGE, ("out[perm], atol", "out, atol")),
        "no room for rounding": wrong(
            JUDGE, ("torch.allclose(f(x[perm]), out[perm], atol=1e-9)", "torch.equal(f(x[perm]), out[perm])")
        ),
        "shifts alone": wrong(JUDGE, ("perm[[i, i + 1]] = perm[[i + 1, i]]", "perm = perm.roll(i + 1)")),
        "the reversal alone": wrong(JUDGE, ("perm[[i, i + 1]] = perm[[i + 1, i]]", "perm = perm.flip(0)")),
        "one swap, of the first two": wrong(JUDGE, ("range(places - 1)", "range(1)")),
        "the channels are shuffled": wrong(
            JUDGE,
            ("range(places - 1)", "range(channels - 1)"),
            ("torch.arange(places)", "torch.arange(channels)"),
            ("f(x[perm]), out[perm]", "f(x[:, perm]), out[:, perm]"),
        ),
    },
    "fits": {
        "the side after the last that fits": wrong(FITS, ("return side\n", "return side + 1\n")),
        "places in place of pairs of places": wrong(FITS, ("n * n * plain", "n * plain")),
        "one block alone": wrong(FITS, ("faces * blocks * size", "faces * size")),
        "N is taken for the side": wrong(FITS, ("return side\n", "return side**2\n")),
        "a full memory counts as too full": wrong(FITS, ("held > memory", "held >= memory")),
        "v is forgotten": wrong(FITS, ("n * channels + n\n", "n * channels\n")),
    },
}

LOSES = {
    "channel": {
        "the zeros of the filling take part in the maximum": 2,
        "the mean divides by all places": 2,
        "the filling is ignored": 2,
    },
    "stream": {
        "nothing keeps the exponentials from overflowing": 2,
        "rows of negative v are lifted by the wrong end": 2,
        "the largest logit of all rows serves each row": 2,
        "an incomplete last block is dropped": 2,
        "the whole matrix at once": 2,
    },
    "fits": {"a full memory counts as too full": 1},
}
