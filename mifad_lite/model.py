"""MIFAD-Net on one page (paper Figure 1): columns, fusion at depths 4, 5 and 6, embedding, cosines."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from .columns import DEPTH, FUSED_DEPTHS, Column
from .fusion import InteractiveFusion
from .losses import CosineClassifier


def check_numbers(config, **ranges: tuple) -> None:
    """Raise ValueError unless each field named is a number from low to high, a whole one where these are."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        kind, kinds = ("whole number", int) if isinstance(low, int) else ("number", (int, float))
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:  # NaN is refused, too
            raise ValueError(f"{name} = {value!r} must be a {kind} from {low:g} to {high:g}")


def is_size(value) -> bool:
    """Whether a layer can have so many channels."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**6


@dataclass(frozen=True)
class MIFADConfig:
    """Everything that shapes the network.

    kernel_sizes: one odd kernel size per column. The paper uses (7, 5, 3); its Table 4 also has two and
        four columns, for which we take (3, 5) and (3, 5, 7, 9).
    widths: six channel counts, or one such tuple per column ("different thickness scales").
    channels: C, the width at which the columns are fused.
    attention: "both", "channel", "spatial" or "none" (Table 5).
    fusion: "concat", "add" or "mul" (Table 6).
    pool_after: depths (1..5) followed by a 2x2 max pool. (1, 3) leaves maps of 12 x 12 at depths 4, 5 and 6;
        (1, 2, 4) makes that 12, 6 and 6, and the columns about half as costly.
    pool_grid: each fused map is average-pooled to a grid of this side before the embedding.
    embedding: E, the size of the embedding.
    head: "cosine" for the angular loss, "linear" for softmax, center and Island loss.
    scale: s, which turns cosines into logits.
    """

    kernel_sizes: tuple[int, ...] = (7, 5, 3)
    widths: tuple = (16, 32, 48, 64, 64, 64)
    channels: int = 64
    attention: str = "both"
    fusion: str = "concat"
    pool_after: tuple[int, ...] = (1, 3)
    pool_grid: int = 1
    embedding: int = 128
    classes: int = 7
    head: str = "cosine"
    scale: float = 16.0
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("kernel_sizes", "widths", "pool_after"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or (name == "widths" and not value):
                raise ValueError(f"{name} is {value!r}, and must be a list of whole numbers")
        nested = [tuple(w) if isinstance(w, list) else w for w in self.widths]  # lists, as JSON gives them
        object.__setattr__(self, "kernel_sizes", tuple(self.kernel_sizes))
        object.__setattr__(self, "widths", tuple(nested))
        object.__setattr__(self, "pool_after", tuple(self.pool_after))
        if not self.kernel_sizes:
            raise ValueError("kernel_sizes is empty: name at least one odd kernel size")
        if self.head not in ("cosine", "linear"):
            raise ValueError(f"head {self.head!r} is unknown: use cosine or linear")
        tuples = sum(isinstance(w, tuple) for w in nested)
        if tuples and (tuples != len(nested) or len(nested) != len(self.kernel_sizes)):
            raise ValueError(f"{tuples} tuples of widths were given for {len(self.kernel_sizes)} columns")
        if not all(is_size(depth) and depth < DEPTH for depth in self.pool_after):
            raise ValueError(f"pool_after is {self.pool_after!r}, and must hold depths from 1 to {DEPTH - 1}")
        sizes = [(name, getattr(self, name)) for name in ("channels", "pool_grid", "embedding", "classes")]
        sizes += [("a kernel size in kernel_sizes", size) for size in self.kernel_sizes]
        sizes += [("a column's width", width) for row in self.column_widths() for width in row]
        for name, value in sizes:
            if not is_size(value):
                raise ValueError(f"{name} is {value!r}, and must be a whole number of at least 1, at most a million")
        check_numbers(self, pool_grid=(1, 48), scale=(1e-6, 1e6), dropout=(0.0, 0.99))

    def column_widths(self) -> list[tuple[int, ...]]:
        """The six widths of each column."""
        shared = not isinstance(self.widths[0], tuple)
        return [self.widths] * len(self.kernel_sizes) if shared else list(self.widths)

    def to_dict(self) -> dict:
        return asdict(self)


class MIFADNet(nn.Module):
    """The whole network: (B, 1, 48, 48) in [0, 1] -> (B, classes) logits without margin.

    Source: Figure 1. Normalisation to mean 0 and the embedding's batch norm are our decisions.
    """

    def __init__(self, config: MIFADConfig | None = None):
        super().__init__()
        self.config = config = config or MIFADConfig()
        widths = config.column_widths()
        self.columns = nn.ModuleList(
            Column(k, w, pool_after=config.pool_after) for k, w in zip(config.kernel_sizes, widths, strict=True)
        )
        self.fusions = nn.ModuleList(
            InteractiveFusion([w[depth - 1] for w in widths], config.channels, config.attention, config.fusion)
            for depth in FUSED_DEPTHS
        )
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(len(FUSED_DEPTHS) * config.channels * config.pool_grid**2, config.embedding, bias=False)
        self.norm = nn.BatchNorm1d(config.embedding)
        if config.head == "cosine":
            self.head = CosineClassifier(config.embedding, config.classes)
        else:
            self.head = nn.Linear(config.embedding, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def features(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, dict[int, dict[str, Tensor]]]:
        """(B, 1, 48, 48) in [0, 1] -> (B, E), and with `return_maps` also {depth: {gate, channel, spatial}}."""
        x = self.normalise(x)
        return self.join([column(x) for column in self.columns], return_maps)

    @staticmethod
    def normalise(x: Tensor) -> Tensor:
        """[0, 1] -> mean 0 and standard deviation 1, nearly: FER2013 has 0.51 and 0.25.

        Raises ValueError for integers, which are gray levels from 0 to 255.
        """
        if not x.is_floating_point():
            raise ValueError(f"a network reads floats in [0, 1], not {x.dtype}: divide by 255, or use predict_logits")
        return (x - 0.5) * 4

    def join(self, by_column: Sequence[Sequence[Tensor]], return_maps: bool = False):
        """K lists of three maps (B, C_k, 12, 12), depths 4, 5 and 6 -> as `features`. 12 is for pools after 1 and 3."""
        pooled, seen = [], {}
        for depth, fusion, maps in zip(FUSED_DEPTHS, self.fusions, zip(*by_column, strict=True), strict=True):
            fused = fusion(maps, return_maps=return_maps)  # (B, C, H, W)
            if return_maps:
                fused, seen[depth] = fused
            pooled.append(nn.functional.adaptive_avg_pool2d(fused, self.config.pool_grid).flatten(1))
        embedding = self.norm(self.embed(self.dropout(torch.cat(pooled, dim=1))))
        return (embedding, seen) if return_maps else embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """(B, E) -> (B, classes) logits: s cos(theta) for the cosine head."""
        logits = self.head(embedding)
        return self.config.scale * logits if self.config.head == "cosine" else logits

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


THICKNESS = ((16, 16, 32, 48, 48, 48), (16, 32, 48, 64, 64, 64), (16, 32, 64, 96, 96, 128))  # of the columns 7, 5, 3

PRESETS = {
    "tiny": MIFADConfig(widths=(8, 16, 16, 16, 16, 16), channels=16, embedding=32),
    "lite": MIFADConfig(widths=THICKNESS, channels=48, pool_grid=3, dropout=0.2),
    "base": MIFADConfig(
        widths=tuple(tuple(2 * w for w in column) for column in THICKNESS),
        channels=96,
        pool_grid=3,
        embedding=256,
        dropout=0.3,
    ),
    "slim": MIFADConfig(  # for grids of experiments: pools sooner, a seventh of lite's operations
        widths=((8, 8, 16, 24, 24, 32), (8, 16, 24, 32, 32, 48), (16, 16, 32, 48, 64, 64)),
        channels=32,
        pool_after=(1, 2, 4),
        pool_grid=3,
        embedding=64,
        dropout=0.1,
    ),
    "wide": MIFADConfig(  # pools sooner and spends what that saves on width
        widths=((16, 24, 32, 48, 64, 64), (16, 32, 64, 64, 128, 128), (32, 64, 128, 128, 256, 256)),
        channels=64,
        pool_after=(1, 2, 4),
        pool_grid=3,
        dropout=0.3,
    ),
    "large": MIFADConfig(  # as wide as 8 MB in 16 bits allow; for a GPU
        widths=((24, 32, 56, 80, 80, 80), (24, 48, 80, 112, 112, 112), (32, 64, 112, 160, 160, 208)),
        channels=80,
        pool_grid=3,
        embedding=192,
        dropout=0.3,
    ),
}
