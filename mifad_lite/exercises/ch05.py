"""Checks of chapter 5: what a fusion block costs, the splice, weights across columns, a product's gradient, K gates."""

import torch

from . import Mistake, call, exercise, require


def positive_maps(columns: int, channels: int, seed: int = 0) -> list[torch.Tensor]:
    """Maps as a ReLU leaves them, (2, channels, 3, 4), about half of the entries zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = (columns, 2, channels, 3, 4)
    return list(torch.randn(shape, generator=generator, dtype=torch.float64).relu())


def agree(found, right: torch.Tensor) -> bool:
    found = torch.as_tensor(found).detach().double()
    return found.shape == right.shape and torch.allclose(found, right, rtol=1e-5, atol=1e-7)


@exercise("ex-fusion-parameters")
def fusion_parameters(answer):
    for widths, c, kind in (((16, 16, 16), 16, "concat"), ((48, 64, 96), 48, "add"), ((5, 6, 6, 7), 6, "concat")):
        k = len(widths)
        align, equal = sum(w * c + c for w in widths if w != c), sum(w * c + c for w in widths if w == c)
        pieces = k + 1 if kind == "concat" else 2
        right = align + 9 * k * c * c + c + pieces * c * c + 2 * c
        found = call(answer, widths, c, kind)
        slips = {
            right - c: "C numbers are missing: the gate's convolution has a bias, and the norm a scale and a shift",
            right - 2 * c: "2C numbers are missing: the batch norm has a scale and a shift for each channel",
            right - c * c: "the attended sum is missing: it enters the projection beside the spliced maps",
            right - 8 * k * c * c: "the gate's kernel is 3x3, so every pair of channels costs nine numbers",
            right + c: "the projection has no bias: the batch norm behind it has a shift of its own",
            right - align: "the 1x1 convolutions that align other widths are missing",
            right - len([w for w in widths if w != c]) * c: "the 1x1 convolutions that align have biases",
            right + equal: "a column that has width C already is not aligned: it costs nothing",
            right + (k + 1 - pieces) * c * c: "add and mul leave one map after the splice, not one for each column",
        }
        if found != right and found in slips:
            raise Mistake(slips[found])
        require(found == right, f"the widths {widths} at C = {c} with {kind!r} cost {right:,} parameters")


@exercise("ex-splice")
def splice(answer):
    maps, other = positive_maps(3, 4), positive_maps(1, 4, seed=1)[0]
    g = torch.sigmoid(other - 0.4)
    r = [g * f for f in maps]
    right = {"concat": torch.cat(r, 1), "add": r[0] + r[1] + r[2], "mul": r[0] * r[1] * r[2]}
    bare = {"concat": torch.cat(maps, 1), "add": maps[0] + maps[1] + maps[2], "mul": maps[0] * maps[1] * maps[2]}
    for kind in ("concat", "add", "mul"):
        found = torch.as_tensor(call(answer, [f.clone() for f in maps], g.clone(), kind))
        require(tuple(found.shape) != (6, 4, 3, 4), "the maps are joined along the batch: channels are dimension 1")
        require(not agree(found, bare[kind]), f"{kind}: the gate is missing, the maps are not re-calibrated")
        once = kind == "mul" and agree(found, g * bare[kind])
        require(not once, "mul: the gate comes once, but each of the three maps brings it: g to the third power")
        require(not agree(found, right["add"] / 3), "add is a sum, not a mean")
        require(agree(found, right[kind]), f"{kind} gives a shape or values that are not its equation")


@exercise("ex-column-softmax")
def column_softmax(answer):
    maps, z = torch.stack(positive_maps(3, 4), 1), torch.stack(positive_maps(3, 4, seed=1), 1)  # (2, 3, 4, 3, 4)
    z = 2 * z - 1
    right = (torch.exp(z) / torch.exp(z).sum(1, keepdim=True) * maps).sum(1)
    found = call(answer, z.clone(), maps.clone())
    for axis, name in ((0, "the batch"), (2, "the channels"), (3, "the rows"), (4, "the places of a row")):
        slip = (torch.softmax(z, axis) * maps).sum(1)
        require(not agree(found, slip), f"the softmax runs over {name} instead of the columns, which are dimension 1")
    sigmoid = (torch.sigmoid(z) * maps).sum(1)
    require(not agree(found, sigmoid), "sigmoids do not compete: the three weights have to sum to 1 at every place")
    require(not agree(found, right / 3), "the weighted maps are averaged: the weights sum to 1 already, so add them")
    require(torch.as_tensor(found).ndim == 4, "the result still has a dimension for the columns: sum over it")
    require(agree(found, right), "the values are not the sum over columns of softmax weight times map")


@exercise("ex-product-gradient")
def product_gradient(answer):
    for columns in (3, 2):
        maps, up = positive_maps(columns, 4), positive_maps(1, 4, seed=2)[0] - 0.5
        leaves = [f.clone().requires_grad_() for f in maps]
        product = leaves[0]
        for f in leaves[1:]:
            product = product * f
        right = torch.autograd.grad((up * product).sum(), leaves)
        found = call(answer, [f.clone() for f in maps], up.clone())
        require(len(found) == columns, f"return one gradient for each map: {columns}, not {len(found)}")
        for k, gradient in enumerate(torch.as_tensor(g).detach() for g in found):
            others = right[k] / up
            require(bool(gradient.isfinite().all()), "the product is divided by the map itself, which is 0/0 at a zero")
            holes = (maps[k] == 0) & (right[k] != 0)
            lost = agree(gradient[~holes], right[k][~holes]) and not gradient[holes].any()
            require(not lost, "where the map itself is zero its gradient is lost, but there it is up times the others")
            require(not agree(gradient, others), "the upstream gradient is missing: multiply by it (chain rule)")
            require(not agree(gradient, up * product.detach()), "the map's own factor is still in: leave map k out")
            require(not agree(gradient, up), "this is the gradient of a sum; a product passes on the other maps")
            require(agree(gradient, right[k]), f"the gradient of map {k} is not upstream times the other maps")


@exercise("ex-column-gates")
def column_gates(answer):
    torch.manual_seed(0)
    block = call(answer, (4, 4, 4), 4)
    maps = [f.float() for f in positive_maps(3, 4)]
    gates = call(block.gates, maps)
    require(len(gates) == 3, f"gates(maps) returns {len(gates)} gates, but there are three columns")
    require(all(g.shape == maps[0].shape for g in gates), "each gate has the shape of a column's map, (B, C, H, W)")
    require(all(g.min() >= 0 and g.max() <= 1 for g in gates), "a gate leaves the range 0 to 1: the sigmoid is missing")
    same = torch.allclose(gates[0], gates[1]) or torch.allclose(gates[1], gates[2])
    require(not same, "two columns have the same gate: the block can still not prefer one of them")
    changed = call(block.gates, [maps[0], maps[1], 2 * maps[2] + 1])
    require(not torch.allclose(changed[0], gates[0]), "a gate hears its own column alone: each has to read all")
    block.eval()

    def out(maps, *values):
        block.gates = lambda maps: [torch.full_like(maps[0], v) for v in values]
        return call(block, maps)

    first, second = out(maps, 1.0, 0.0, 0.0), out(maps, 0.0, 1.0, 0.0)
    require(first.shape == maps[0].shape, f"the block returns {tuple(first.shape)}, not the shape of one map")
    require(not torch.allclose(first, second), "forward does not use the gates: column k meets gate k of gates(maps)")
    for k in range(3):  # only gate k is open, so of the other columns nothing but the sum of all may count
        i, j = (other for other in range(3) if other != k)
        only = [float(column == k) for column in range(3)]

        def moves(up, down, only=only):
            moved = list(maps)
            moved[up], moved[down] = maps[up] + 1, maps[down] - 1  # the sum stays
            return not torch.allclose(out(moved, *only), out(maps, *only), atol=1e-4)

        require(moves(k, i), f"with gate {k} alone open, column {k} does not come through: is the order right?")
        require(not moves(i, j), f"with gate {k} alone open, columns {i} and {j} come through: column k meets gate k")
    shut = [out([f * by for f in maps], 0.0, 0.0, 0.0) for by in (1, 2)]
    require(not torch.allclose(*shut), "the attended sum of the maps is lost: only the gates change, not the rest")
