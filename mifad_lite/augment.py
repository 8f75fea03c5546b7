"""Augmentation as batched tensor code on the data's device, float32, one draw per image.

A batch arrives as uint8 and leaves as float32 in [0, 1]. With every strength at 0 it leaves unchanged.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import check_numbers


@dataclass(frozen=True)
class Augmentation:
    """Strengths. All zero is the identity.

    flip: probability of a left-right mirror.
    rotate: largest rotation in degrees.  scale: largest relative zoom.  shift: largest shift, as a part of the side.
    brightness, contrast: largest change, as a part of the range and of the contrast.
    erase: probability that a rectangle of at most a third of each side is filled with noise.
    crop: side in pixels of the window that is cut out at a random place, 0 for the whole image. A smaller window costs
        less, and a network that pools to a grid still reads whole images afterwards.
    """

    flip: float = 0.5
    rotate: float = 10.0
    scale: float = 0.1
    shift: float = 0.06
    brightness: float = 0.1
    contrast: float = 0.2
    erase: float = 0.1
    crop: int = 0

    def __post_init__(self):
        check_numbers(self, flip=(0.0, 1.0), rotate=(0.0, 360.0), scale=(0.0, 1.0), shift=(0.0, 1.0))
        check_numbers(self, brightness=(0.0, 10.0), contrast=(0.0, 10.0), erase=(0.0, 1.0), crop=(0, 4096))

    @classmethod
    def none(cls) -> "Augmentation":
        return cls(0, 0, 0, 0, 0, 0, 0)


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, 1, H, W) -> float32 in [0, 1]. Raises ValueError for floats, which are taken to be there already."""
    if images.is_floating_point():
        raise ValueError(f"{images.dtype} images are not divided by 255 again: give uint8, from 0 to 255")
    return images.float() / 255


def augment(
    images: Tensor, strength: Augmentation, generator: torch.Generator | None = None, share: slice = slice(None)
) -> Tensor:
    """uint8 (B, 1, H, W) -> float32 in [0, 1], each image changed by its own random draw.

    The result is (B, 1, H, W), or (B, 1, crop, crop) where `strength.crop` is set. share: the part of the batch to
    compute, the same as that part of the whole result, since the numbers of all images are drawn. Raises ValueError
    where the crop is larger than the image, and for floats.
    """
    x = to_float(images[share])
    batch, _, height, width = x.shape
    if strength.crop > min(height, width):
        raise ValueError(f"crop = {strength.crop} is larger than the image, {height} x {width} pixels")
    size = (strength.crop, strength.crop) if strength.crop else (height, width)
    if not len(images):
        return x.new_empty(0, 1, *size)

    def draw(*shape: int) -> Tensor:  # in [0, 1), for each image
        return torch.rand((len(images), *shape), generator=generator, device=x.device)[share]

    def uniform(*shape: int) -> Tensor:  # in [-1, 1)
        return draw(*shape) * 2 - 1

    def chance(p: float) -> Tensor:
        return draw() < p

    if strength.flip:
        x = torch.where(chance(strength.flip)[:, None, None, None], x.flip(3), x)
    if strength.rotate or strength.scale or strength.shift or size != (height, width):
        angle = torch.deg2rad(strength.rotate * uniform())
        zoom = 1 + strength.scale * uniform()
        part = torch.tensor([size[1] / width, size[0] / height], device=x.device)  # of the image that the window sees
        move = (2 * strength.shift + 1 - part) * uniform(2)  # grid coordinates span 2
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        tall = height / width  # each side spans 2 in the grid, whatever its pixels: undone, or a rotation would shear
        matrix = torch.stack([cos, -sin * tall, move[:, 0], sin / tall, cos, move[:, 1]], dim=1).view(batch, 2, 3)
        matrix[:, :, :2] *= part
        grid = F.affine_grid(matrix, [batch, 1, *size], align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    if strength.contrast or strength.brightness:
        mean = x.mean((1, 2, 3), keepdim=True)
        gain = 1 + strength.contrast * uniform(1, 1, 1)
        x = ((x - mean) * gain + mean + strength.brightness * uniform(1, 1, 1)).clamp(0, 1)
    if strength.erase:
        side = draw(2) * 0.23 + 0.1  # parts of height and width
        corner = draw(2) * (1 - side)
        rows = torch.arange(size[0], device=x.device) / size[0]
        cols = torch.arange(size[1], device=x.device) / size[1]
        in_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + side[:, :1])  # (B, H)
        in_cols = (cols >= corner[:, 1:]) & (cols < corner[:, 1:] + side[:, 1:])  # (B, W)
        hole = in_rows[:, None, :, None] & in_cols[:, None, None, :] & chance(strength.erase)[:, None, None, None]
        noise = draw(*x.shape[1:])
        x = torch.where(hole, noise, x)
    return x
