"""The columns: six convolutions each, one kernel size per column (paper Figures 1 and 3).

Small kernels see fine detail, large ones see whole features of a face. All columns read the same
image. The paper gives six convolutions and five batch normalisations a column, and no widths, strides
or pools; those are our decision and therefore parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DEPTH = 6  # convolutions per column, stated in the paper
FUSED_DEPTHS = (4, 5, 6)  # "the last three convolutional layers of the same depth" take part in the fusion


class Column(nn.Module):
    """One column: conv1..conv5 are convolution + batch norm + ReLU, conv6 is convolution + ReLU.

    Args:
        kernel_size: odd side of every kernel in this column.
        widths: output channels of the six convolutions.
        in_channels: channels of the image.
        pool_after: depths (1..5) followed by a 2x2 max pool.

    Source: Figure 3 and "each column of the network has six convolutional layers and five BN layers".
    Raises ValueError for an even kernel or a list of widths that is not six long.
    """

    def __init__(
        self, kernel_size: int, widths: Sequence[int], in_channels: int = 1, pool_after: Sequence[int] = (1, 3)
    ):
        super().__init__()
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(f"kernel_size {kernel_size} is not odd: padding k//2 keeps the map's size only for odd k")
        if len(widths) != DEPTH:
            raise ValueError(f"a column has {DEPTH} convolutions but {len(widths)} widths were given: {tuple(widths)}")
        self.pool_after = tuple(pool_after)
        channels = (in_channels, *widths)
        last = DEPTH - 1
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], kernel_size, padding=kernel_size // 2, bias=i == last)
            for i in range(DEPTH)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths[:last])

    def forward(self, x: Tensor, depths: Sequence[int] = FUSED_DEPTHS) -> list[Tensor]:
        """Image (B, in_channels, 48, 48) -> the maps of `depths`: of 4, 5, 6, each (B, C_d, 12, 12).

        12 x 12 is for pools after 1 and 3. Pools after 1, 2 and 4 make depths 5 and 6 6 x 6.
        """
        maps = []
        for depth in range(1, DEPTH + 1):
            x = self.convs[depth - 1](x)
            if depth < DEPTH:  # the sixth convolution has a bias instead of a norm
                x = self.norms[depth - 1](x)
            x = torch.relu_(x)
            if depth in depths:
                maps.append(x)
            if depth in self.pool_after:
                x = nn.functional.max_pool2d(x, 2)
        return maps
