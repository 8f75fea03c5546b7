"""Baselines for honesty, trainable with the same `fit`: a ResNet-18 for 48 x 48 pixels, and the columns alone."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from .columns import Column
from .model import MIFADConfig, MIFADNet, is_size


@dataclass(frozen=True)
class ResNetConfig:
    """width: channels of the first stage (64 in ResNet-18). The other fields mean what they mean in `MIFADConfig`.

    The head can only be "linear". Raises ValueError for another one, and for sizes that no layer can have.
    """

    width: int = 64
    classes: int = 7
    head: str = "linear"

    def __post_init__(self):
        for name in ("width", "classes"):
            if not is_size(value := getattr(self, name)):
                raise ValueError(f"{name} is {value!r}, and must be a whole number of at least 1, at most a million")
        if self.head != "linear":
            raise ValueError(f"head {self.head!r} is unknown: a ResNet-18 has a linear one")

    def to_dict(self) -> dict:
        return asdict(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, Figure 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with a 3x3 first convolution and no first pool, as usual for small images.

    (B, 1, 48, 48) in [0, 1] -> (B, classes) logits; `features` gives (B, 8 * width).
    """

    def __init__(self, config: ResNetConfig | None = None):
        super().__init__()
        self.config = config = config or ResNetConfig()
        w = config.width
        self.stem = nn.Sequential(nn.Conv2d(1, w, 3, 1, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True))
        blocks, inputs = [], w
        for outputs, stride in ((w, 1), (2 * w, 2), (4 * w, 2), (8 * w, 2)):
            blocks += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(8 * w, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(MIFADNet.normalise(x))).mean((2, 3))  # (B, 8w, 6, 6) -> (B, 8w)

    def classify(self, embedding: Tensor) -> Tensor:
        return self.head(embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


class ColumnsNet(nn.Module):
    """MIFAD-Net's columns and nothing else: their last maps are pooled, concatenated and classified.

    What attention and fusion cost, and what they buy, is measured against this. It reads `kernel_sizes`, `widths`,
    `pool_after` and `classes` of its configuration; the head is linear.
    """

    def __init__(self, config: MIFADConfig):
        super().__init__()
        self.config = config
        widths = config.column_widths()
        self.columns = nn.ModuleList(
            Column(k, w, pool_after=config.pool_after) for k, w in zip(config.kernel_sizes, widths, strict=True)
        )
        self.head = nn.Linear(sum(w[-1] for w in widths), config.classes)

    def features(self, x: Tensor) -> Tensor:
        x = MIFADNet.normalise(x)
        return torch.cat([column(x)[-1].mean((2, 3)) for column in self.columns], dim=1)  # (B, sum of last widths)

    def classify(self, embedding: Tensor) -> Tensor:
        return self.head(embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))
