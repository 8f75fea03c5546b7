"""Right answers, untouched stubs and classic mistakes for the exercises of chapter 5."""

import torch
from torch import nn

from mifad_lite import AttentionModule, InteractiveFusion


def stub(*args): ...


# ex-fusion-parameters


def counted(widths, c, kind):
    block = InteractiveFusion(widths, c, attention="none", fusion=kind)
    return sum(p.numel() for p in block.parameters())


def without(skip):
    """Count as `counted` does, but pass over what `skip(name)` names."""

    def count(widths, c, kind):
        block = InteractiveFusion(widths, c, attention="none", fusion=kind)
        return sum(p.numel() for name, p in block.named_parameters() if not skip(name))

    return count


def aligned_always(widths, c, kind):
    return counted(widths, c, kind) + sum(w * c + c for w in widths if w == c)


# ex-splice


def splice(maps, gate, kind):
    r = torch.stack([gate * f for f in maps], 1)  # (B, K, C, H, W)
    return {"concat": r.flatten(1, 2), "add": r.sum(1), "mul": r.prod(1)}[kind]


def gate_once(maps, gate, kind):
    if kind == "mul":
        return gate * maps[0] * maps[1] * maps[2]
    return splice(maps, gate, kind)


def mean_for_add(maps, gate, kind):
    return splice(maps, gate, kind) / (3 if kind == "add" else 1)


# ex-column-softmax


def across(z, maps):
    e = torch.exp(z - z.amax(1, keepdim=True))
    return torch.einsum("bkchw,bkchw->bchw", e, maps) / e.sum(1)


# ex-product-gradient


def by_loop(maps, up):
    out = []
    for k in range(len(maps)):
        g = up
        for j, f in enumerate(maps):
            g = g if j == k else g * f
        out.append(g)
    return out


def product(maps):
    return torch.stack(maps).prod(0)


def safe_division(maps, up):
    return [torch.where(f > 0, up * product(maps) / f.clamp_min(1e-30), 0 * up) for f in maps]


# ex-column-gates


class Gates(nn.Module):
    """One gate for each column, made in a loop from convolutions of their own."""

    def __init__(self, widths, c):
        super().__init__()
        self.merges = nn.ModuleList(nn.Conv2d(sum(widths), c, 3, padding=1) for _ in widths)
        self.attention, self.mix = AttentionModule(c), nn.Conv2d((len(widths) + 1) * c, c, 1)

    def gates(self, maps):
        return [torch.sigmoid(merge(torch.cat(maps, 1))) for merge in self.merges]

    def forward(self, maps):
        return self.join(maps, self.gates(maps))

    def join(self, maps, gates):
        r = [g * f for g, f in zip(gates, maps, strict=True)]
        return self.mix(torch.cat([*r, self.attention(sum(maps))], 1))


class Shared(Gates):
    def gates(self, maps):
        return [torch.sigmoid(self.merges[0](torch.cat(maps, 1)))] * 3


class Deaf(Gates):
    def gates(self, maps):
        return [torch.sigmoid((k + 1) * f - 1) for k, f in enumerate(maps)]


class Open(Gates):
    def gates(self, maps):
        return [merge(torch.cat(maps, 1)) for merge in self.merges]


class Ignored(Gates):
    def forward(self, maps):
        return self.join(maps, [1, 1, 1])


class FirstGate(Gates):
    def forward(self, maps):
        return self.join(maps, self.gates(maps)[:1] * 3)


class Backwards(Gates):
    def forward(self, maps):
        return self.join(maps, self.gates(maps)[::-1])


class Alone(Gates):
    def forward(self, maps):
        r = [g * f for g, f in zip(self.gates(maps), maps, strict=True)]
        return self.mix(torch.cat([*r, torch.zeros_like(maps[0])], 1))


class Untouched(Gates):
    def gates(self, maps): ...


CASES = {
    "ex-fusion-parameters": {
        "right": [counted],
        "stub": stub,
        "wrong": {
            "C numbers are missing": without(lambda name: name == "merge.bias"),
            "2C numbers are missing": without(lambda name: name.startswith("norm")),
            "the attended sum is missing": lambda w, c, kind: counted(w, c, kind) - c * c,
            "costs nine numbers": lambda w, c, kind: counted(w, c, kind) - 8 * len(w) * c * c,
            "the projection has no bias": lambda w, c, kind: counted(w, c, kind) + c,
            "is not aligned: it costs nothing": aligned_always,
            "one map after the splice": lambda w, c, kind: counted(w, c, "concat"),
            "are missing": without(lambda name: name.startswith("align")),
            "have biases": without(lambda name: name.startswith("align") and name.endswith("bias")),
            "cost 7,984 parameters": lambda w, c, kind: 1000,
        },
    },
    "ex-splice": {
        "right": [splice],
        "stub": stub,
        "wrong": {
            "joined along the batch": lambda f, g, kind: torch.cat([g * v for v in f], 0) if kind == "concat" else f[0],
            "the gate is missing": lambda f, g, kind: splice(f, torch.ones_like(g), kind),
            "g to the third power": gate_once,
            "not a mean": mean_for_add,
            "not its equation": lambda f, g, kind: splice(f[::-1], g, kind),
        },
    },
    "ex-column-softmax": {
        "right": [across],
        "stub": stub,
        "wrong": {
            "over the channels": lambda z, f: (z.softmax(2) * f).sum(1),
            "over the batch": lambda z, f: (z.softmax(0) * f).sum(1),
            "do not compete": lambda z, f: (z.sigmoid() * f).sum(1),
            "are averaged": lambda z, f: (z.softmax(1) * f).mean(1),
            "still has a dimension": lambda z, f: z.softmax(1) * f,
        },
    },
    "ex-product-gradient": {
        "right": [by_loop],
        "stub": stub,
        "wrong": {
            "0/0 at a zero": lambda f, up: [up * product(f) / v for v in f],
            "its gradient is lost": safe_division,
            "the upstream gradient is missing": lambda f, up: by_loop(f, torch.ones_like(up)),
            "own factor is still in": lambda f, up: [up * product(f)] * len(f),
            "the gradient of a sum": lambda f, up: [up] * len(f),
            "one gradient for each map": lambda f, up: by_loop(f, up)[:1],
        },
    },
    "ex-column-gates": {
        "right": [Gates],
        "stub": Untouched,
        "wrong": {
            "two columns have the same gate": Shared,
            "hears its own column alone": Deaf,
            "the sigmoid is missing": Open,
            "forward does not use the gates": Ignored,
            "with gate 0 alone open, columns 1 and 2": FirstGate,
            "column 0 does not come through": Backwards,
            "the attended sum of the maps is lost": Alone,
        },
    },
}
