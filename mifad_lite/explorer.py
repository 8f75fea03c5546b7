"""What the network that knows drawn faces computes inside, on one face of each emotion: data for the moving figures.

`python -m mifad_lite explore --out book/results/explorer.json` writes it once. The pages embed that record, so
they do not depend on the last digit of a processor, and the chapters assert that the network still gives it.
"""

import torch

from .augment import to_float
from .checkpoint import DRAWN, load_network
from .data import CLASSES, FaceSet, content_sha256
from .interactive import pack
from .records import provenance
from .synthetic import synthetic_faces

SEED = 3  # of the seven faces
PATCH, STEP = 12, 3  # side of the gray patch that hides a part of the face, and its step, in pixels


def chosen_faces() -> FaceSet:
    """One drawn face of each emotion, in the order of CLASSES."""
    return synthetic_faces(len(CLASSES), SEED, intra=0.3, inter=0.3, labels=torch.arange(len(CLASSES)))


@torch.no_grad()
def occlusion(net: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Probabilities (13, 13, 7) with a gray patch of 12 x 12 pixels over each place of a face (1, 48, 48) in [0, 1].

    Place (i, j) hides rows 3 i to 3 i + 11 and columns 3 j to 3 j + 11. Source: Zeiler and Fergus, ECCV 2014.
    """
    starts = range(0, image.shape[-1] - PATCH + 1, STEP)
    hidden = image.repeat(len(starts) ** 2, 1, 1, 1)
    for n, (top, left) in enumerate((t, l) for t in starts for l in starts):  # noqa: E741
        hidden[n, :, top : top + PATCH, left : left + PATCH] = image.mean()
    return net(hidden).softmax(1).unflatten(0, (len(starts), len(starts)))


@torch.no_grad()
def explore() -> dict:
    """The record: pixels, attention vectors, gates, probabilities and occlusion maps of the chosen faces."""
    net, meta = load_network(DRAWN)
    faces = chosen_faces()
    x = to_float(faces.images)  # (7, 1, 48, 48)
    depths = {}
    for depth, fusion, maps in zip((4, 5, 6), net.fusions, zip(*columns_of(net, x), strict=True), strict=True):
        maps = [align(f) for align, f in zip(fusion.align, maps, strict=True)]
        total = sum(maps[1:], start=maps[0])  # (7, C, 12, 12), what the attention reads
        attention = fusion.attention
        depths[depth] = {
            "channel_v": rounded(attention.channel.vector(total)),  # (7, C)
            "alpha": round(attention.channel.alpha.item(), 4),
            "spatial_v": rounded(attention.spatial.vector(attention.channel(total))),  # (7, 144)
            "beta": round(attention.spatial.beta.item(), 4),
            "gate": pack(fusion.gate(maps)),  # (7, C, 12, 12)
            "columns": {k: pack(f / f.amax()) for k, f in zip(net.config.kernel_sizes, maps, strict=True)},
        }
    return {
        "kind": "explorer",
        "seed": SEED,
        **provenance("drawn faces", content_sha256(faces)),
        "network": {key: meta[key] for key in ("commit", "seed", "epoch") if key in meta},
        "classes": list(CLASSES),
        "faces": pack(x),  # (7, 48, 48)
        "channels": net.config.channels,
        "depths": depths,
        "probabilities": rounded(net(x).softmax(1)),  # (7, 7)
        "occlusion": [pack(occlusion(net, image)) for image in x],  # 7 times (13, 13, 7)
    }


def columns_of(net, x: torch.Tensor) -> list[list[torch.Tensor]]:
    """The maps of depths 4, 5 and 6 of each column of `net` for faces (B, 1, 48, 48) in [0, 1].

    Raises ValueError for integers.
    """
    x = net.normalise(x)
    return [column(x) for column in net.columns]


def rounded(values: torch.Tensor, digits: int = 4) -> list:
    """Nested lists of numbers with so many decimals."""
    return [rounded(v, digits) if v.dim() else round(v.item(), digits) for v in values]
