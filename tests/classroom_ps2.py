"""Classic mistakes of problem set 2: each is the whole code of an answer cell, wrong in the way that its title says."""

SPLICE = """
def splice(maps, adapters, gate, kind):
    recalibrated = []
    for f, matrix in zip(maps, adapters):
        fitted = f if matrix is None else torch.einsum("oc,bchw->bohw", matrix, f)
        recalibrated.append(gate * fitted)
    r = torch.stack(recalibrated, dim=2)
    if kind == "woven":
        return r.flatten(1, 2)
    return r.sum(2) if kind == "add" else (1 + r).prod(2) - 1
"""

FIELD = """
def gated_field(kernels, depth, pool_after):
    side = step = 1
    for d in range(1, depth + 1):
        side += (max(kernels) - 1) * step
        if d in pool_after and d < depth:
            side += step
            step *= 2
    return side + 2 * step
"""

REACH = """
def field_of(kernel):
    side = step = 1
    for d in range(1, own_depth + 1):
        side += (kernel - 1) * step
        if d in own_pools and d < own_depth:
            side, step = side + step, 2 * step
    return side, step


side, step = field_of(max(own_kernels))
FIELD = side + 2 * step
SMALLEST = next(k for k in range(1, 2000, 2) if field_of(k)[0] >= own_pixels)
"""

PRICE = """
def extra(kernel, widths, channels, fusion):
    column = kernel**2 * sum(a * b for a, b in zip((1, *widths), widths)) + 2 * sum(widths[:5]) + widths[5]
    blocks = 0
    for width in widths[3:]:
        blocks += 0 if width == channels else (width + 1) * channels
        blocks += 9 * channels**2
        blocks += channels**2 if fusion == "concat" else 0
    return column + blocks


EXTRA_CONCAT, EXTRA_ADD = (extra(**own_column, channels=own_channels, fusion=kind) for kind in ("concat", "add"))
"""

FLOWS = """
def flows(maps, weights, bias, ups):
    g = torch.sigmoid(bias + torch.einsum("knc,koc->no", maps, weights))
    wanted = (ups * maps).sum(0) * g * (1 - g)
    return g * ups, torch.einsum("no,koc->knc", wanted, weights)


HEARD = flows(f_own, W_own, b_own, ups_own)[1][0].norm().item()
"""

CONTRACT = """
def fits(specs, tensors):
    sizes = {}
    for spec, tensor in zip(specs, tensors):
        names = spec.split()
        if len(names) != tensor.ndim:
            raise ValueError(f"{spec!r} has {len(names)} axes, the tensor {tensor.ndim}")
        for name, size in zip(names, tensor.shape):
            wanted = int(name) if name.isdigit() else sizes.setdefault(name, size)
            if size != wanted:
                raise ValueError(f"{name} in {spec!r} should be {wanted}, but is {size}")
    return sizes
"""


def wrong(right: str, *changes: tuple[str, str]) -> str:
    """The right answer with some of its words replaced."""
    for old, new in changes:
        assert right.count(old) == 1, old
        right = right.replace(old, new)
    return right


MISTAKES = {
    "splice": {
        "the gate is forgotten": wrong(SPLICE, ("gate * fitted", "fitted")),
        "no map is adapted by its own matrix": wrong(SPLICE, ("oc,bchw->bohw", "oc,bchw->bchw")),
        "side by side in place of woven": wrong(
            SPLICE, ("return r.flatten(1, 2)", "return r.transpose(1, 2).flatten(1, 2)")
        ),
        "the mean in place of the sum": wrong(SPLICE, ("r.sum(2)", "r.mean(2)")),
        "the plain product": wrong(SPLICE, ("(1 + r).prod(2) - 1", "r.prod(2)")),
        "the 1 is not taken off again": wrong(SPLICE, ("(1 + r).prod(2) - 1", "(1 + r).prod(2)")),
        "soft gates the result, not the maps": wrong(
            SPLICE, ("(1 + r).prod(2) - 1", "gate * ((1 + r / gate[:, :, None]).prod(2) - 1)")
        ),
    },
    "field": {
        "the gate is forgotten": wrong(FIELD, ("return side + 2 * step", "return side")),
        "the gate's 3 x 3 counts in pixels": wrong(FIELD, ("side + 2 * step", "side + 2")),
        "the narrowest column": wrong(FIELD, ("max(kernels)", "min(kernels)")),
        "the first column": wrong(FIELD, ("max(kernels)", "kernels[0]")),
        "a pool widens steps but no field": wrong(FIELD, ("            side += step\n", "")),
        "the pool after the map counts too": wrong(FIELD, (" and d < depth", "")),
        "the pool stands before its convolution": """
def gated_field(kernels, depth, pool_after):
    side = step = 1
    for d in range(1, depth + 1):
        if d in pool_after:
            side += step
            step *= 2
        side += (max(kernels) - 1) * step
    return side + 2 * step
""",
    },
    "reach": {
        "the gate is forgotten": wrong(REACH, ("FIELD = side + 2 * step", "FIELD = side")),
        "the smallest that misses": wrong(REACH, (">= own_pixels)", ">= own_pixels) - 2")),
        "even kernels allowed": wrong(REACH, ("range(1, 2000, 2)", "range(2, 2000, 2)")),
        "pools are ignored": wrong(REACH, ("d in own_pools and d < own_depth", "False")),
        "numbers that were typed in": "FIELD, SMALLEST = 1061, 41\n",
    },
    "price": {
        "each convolution has a bias": wrong(PRICE, ("+ widths[5]", "+ sum(widths)")),
        "six norms": wrong(PRICE, ("2 * sum(widths[:5])", "2 * sum(widths)")),
        "the gate needs no weights for a new column": wrong(PRICE, ("        blocks += 9 * channels**2\n", "")),
        "every map is aligned": wrong(PRICE, ("0 if width == channels else ", "")),
        "the aligning has no bias": wrong(PRICE, ("(width + 1) * channels", "width * channels")),
        "the projection grows with every splice": wrong(
            PRICE, ('channels**2 if fusion == "concat" else 0', "channels**2")
        ),
        "one fusion block in place of three": wrong(PRICE, ("widths[3:]", "widths[5:]")),
    },
    "flows": {
        "the gate listens to its own map alone": wrong(
            FLOWS,
            ("(ups * maps).sum(0)", "(ups * maps)"),
            ("no,koc->knc", "kno,koc->knc"),
        ),
        "the slope of the sigmoid is forgotten": wrong(FLOWS, (" * g * (1 - g)", "")),
        "the slope of the sigmoid is the sigmoid": wrong(FLOWS, (" * g * (1 - g)", " * g")),
        "the weights are not transposed on the way back": wrong(FLOWS, ("no,koc->knc", "nc,koc->kno")),
        "all the ups, without the maps": wrong(FLOWS, ("(ups * maps).sum(0)", "ups.sum(0)")),
        "the direct part for both": wrong(
            FLOWS,
            ('torch.einsum("no,koc->knc", wanted, weights)', "g * ups"),
        ),
        "the wrong column": wrong(FLOWS, ("[1][0].norm()", "[1][2].norm()")),
    },
    "contract": {
        "the last size wins": wrong(CONTRACT, ("sizes.setdefault(name, size)", "size\n            sizes[name] = size")),
        "the number of axes is not compared": wrong(CONTRACT, ("len(names) != tensor.ndim", "False")),
        "numbers are taken for letters": wrong(CONTRACT, ("int(name) if name.isdigit() else ", "")),
        "each tensor by itself": wrong(
            CONTRACT, ("        names = spec.split()", "        sizes = {}\n        names = spec.split()")
        ),
        "an assertion in place of a ValueError": wrong(
            CONTRACT, ('raise ValueError(f"{name}', 'raise AssertionError(f"{name}')
        ),
        "the letter is not named": wrong(
            CONTRACT, ('f"{name} in {spec!r} should be {wanted}, but is {size}"', '"wrong size"')
        ),
        "a 1 fits everything": wrong(CONTRACT, ("if size != wanted:", "if size not in (1, wanted):")),
    },
}

LOSES = {
    "splice": {
        "side by side in place of woven": 2,
        "the mean in place of the sum": 2,
        "the plain product": 2,
        "the 1 is not taken off again": 2,
        "soft gates the result, not the maps": 2,
    },
    "flows": {"the wrong column": 1},
}
