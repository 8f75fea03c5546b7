"""Interactive feature fusion: how the columns talk to each other (paper Figures 2 and 7)."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from .attention import AttentionModule

# Logits of a gate are cut here, where sigmoid is 4e-18 from 0 or 1. A trained network has logits near -80, too. There
# the gradient is a subnormal number, and a CPU takes a slow path for each of them ("gates" in book/results).
STEEPEST = 40.0


class InteractiveFusion(nn.Module):
    """Merge the maps of all columns at one depth.

        g     = sigmoid(conv3x3([f_1, ..., f_K]))              gate, one weight per channel and place
        r_k   = g * f_k                                        re-calibrated maps
        a     = Attention(f_1 + ... + f_K)                     interaction by addition
        fused = ReLU(BN(conv1x1([splice(r_1, ..., r_K), a])))

    `splice` is concatenation in the paper. Its Table 6 also tries addition and multiplication.

    Args:
        in_channels: channels of each column's map at this depth. Where they differ from `channels`, a
            1x1 convolution aligns them first (our decision: maps can be added only at one width).
        channels: C, channels of the gate, of the attention and of the fused map.
        attention: see `AttentionModule`.
        fusion: "concat", "add" or "mul".

    Source: Figure 2 for g and r_k, Figure 7 and the text for a. How a joins the rest is our decision.
    Raises ValueError for an unknown `fusion`.
    """

    KINDS = ("concat", "add", "mul")

    def __init__(self, in_channels: Sequence[int], channels: int, attention: str = "both", fusion: str = "concat"):
        super().__init__()
        if fusion not in self.KINDS:
            raise ValueError(f"fusion {fusion!r} is unknown: use one of {', '.join(self.KINDS)}")
        columns = len(in_channels)
        self.fusion = fusion
        self.align = nn.ModuleList(nn.Identity() if c == channels else nn.Conv2d(c, channels, 1) for c in in_channels)
        self.merge = nn.Conv2d(columns * channels, channels, 3, padding=1)
        self.attention = AttentionModule(channels, attention)
        spliced = columns if fusion == "concat" else 1
        self.project = nn.Conv2d((spliced + 1) * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def gate(self, maps: Sequence[Tensor]) -> Tensor:
        """Aligned maps, each (B, C, H, W) -> g (B, C, H, W) with values in (0, 1), up to rounding.

        Its logits are cut at `STEEPEST`, where float32 says 1.
        """
        logits = self.merge(torch.cat(list(maps), dim=1))
        return torch.sigmoid(nn.functional.hardtanh(logits, -STEEPEST, STEEPEST))  # clamp, with a faster way back

    def forward(
        self, maps: Sequence[Tensor], return_maps: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """K maps (B, C_k, H, W) -> (B, C, H, W), and with `return_maps` also the gate and attention maps."""
        maps = [align(f) for align, f in zip(self.align, maps, strict=True)]
        gate = self.gate(maps)
        recalibrated = [gate * f for f in maps]
        seen = {}
        attended = self.attention(sum(maps[1:], start=maps[0]), return_maps=return_maps)
        if return_maps:
            attended, seen = attended
        if self.fusion == "concat":
            spliced = recalibrated
        else:
            spliced = [reduce(torch.add if self.fusion == "add" else torch.mul, recalibrated)]
        fused = torch.relu(self.norm(self.project(torch.cat([*spliced, attended], dim=1))))
        return (fused, {"gate": gate, **seen}) if return_maps else fused
