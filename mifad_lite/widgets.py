"""Dials for a live kernel: ipywidgets around the functions of the package.

Every function returns one widget. Its controls redraw a picture through `draw`, which is an attribute of the widget,
so that it can be called and tested without a browser. In the built book the figures of `interactive` take their place.
"""

from collections.abc import Callable

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from . import plots
from .augment import Augmentation, augment, to_float
from .data import CLASSES, FaceSet
from .explorer import occlusion
from .losses import AngularDistanceLoss
from .synthetic import synthetic_faces


def dials(draw: Callable[..., Figure], alt: str, **controls: ipywidgets.ValueWidget) -> ipywidgets.VBox:
    """Controls above the picture that `draw(**values)` gives for their values; drawn again whenever one changes.

    The returned box has the attributes `controls`, `picture` (an Image widget, PNG) and `draw`.
    """
    picture = ipywidgets.Image(format="png", tooltip=alt, layout={"max_width": "100%"})

    def redraw(_=None) -> None:
        picture.value = plots.png(draw(**{name: control.value for name, control in controls.items()}))

    for name, control in controls.items():
        control.description = control.description or name
        control.observe(redraw, names="value")
    redraw()
    box = ipywidgets.VBox([*controls.values(), picture])
    box.controls, box.picture, box.draw = controls, picture, draw
    return box


def dial(low: float, high: float, value: float, step: float = 0.05) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(min=low, max=high, value=value, step=step, continuous_update=False)


def faces() -> ipywidgets.VBox:
    """Drawn faces, three of each emotion, under the two dials of `synthetic_faces` (chapter 1)."""

    def draw(intra: float, inter: float, seed: int) -> Figure:
        labels = torch.arange(7).repeat(3)
        return plots.contact_sheet(synthetic_faces(21, seed, intra=intra, inter=inter, labels=labels), rows=3)

    return dials(
        draw, "Three drawn faces of each emotion.", intra=dial(0, 1, 0.5), inter=dial(0, 1, 0.5),
        seed=ipywidgets.IntSlider(min=0, max=50, value=0, continuous_update=False),
    )  # fmt: skip


@torch.no_grad()
def attention(net: torch.nn.Module, chosen: FaceSet) -> ipywidgets.VBox:
    """A_c, v as a map and the row of A_s at a place, as `net` computes them on the faces `chosen` (chapters 3, 4)."""
    x = to_float(chosen.images)
    _, seen = net.eval().features(x, return_maps=True)

    def draw(face: int, depth: int, row: int, column: int) -> Figure:
        maps = seen[depth]
        side = maps["gate"].shape[-1]
        fig, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
        panels = (
            (x[face, 0], "gray", f"{CLASSES[chosen.labels[face]]}, place {row}, {column}"),
            (maps["channel"][face], "viridis", "channel attention A_c"),
            (maps["spatial"][face][row * side + column].reshape(side, side), "viridis", "its row of A_s"),
        )
        for ax, (picture, colors, title) in zip(axes, panels, strict=True):
            ax.imshow(picture.numpy(), cmap=colors)
            ax.set_title(title, fontsize=10)
            ax.axis("off")
        scale = x.shape[-1] / side
        corner = (column * scale - 0.5, row * scale - 0.5)
        axes[0].add_patch(plt.Rectangle(corner, scale, scale, fill=False, edgecolor="#d55e00", linewidth=2))
        return fig

    side = seen[6]["gate"].shape[-1]
    place = {"min": 0, "max": side - 1, "value": side // 2, "continuous_update": False}
    return dials(
        draw, "A face, its channel attention, and the attention of one place.",
        face=ipywidgets.IntSlider(min=0, max=len(chosen) - 1), depth=ipywidgets.Dropdown(options=(4, 5, 6)),
        row=ipywidgets.IntSlider(**place), column=ipywidgets.IntSlider(**place),
    )  # fmt: skip


def margin() -> ipywidgets.VBox:
    """Loss and slope against the angle to the true class, for two classes 90 degrees apart (chapter 7)."""

    def draw(scale: float, margin: float) -> Figure:
        theta = torch.linspace(0, torch.pi / 2, 181, dtype=torch.float64, requires_grad=True)
        cosines = torch.stack([torch.cos(theta), torch.sin(theta)], dim=1)
        logits = AngularDistanceLoss(scale, margin).logits(cosines, torch.zeros(181, dtype=torch.long))
        losses = -torch.log_softmax(logits, dim=1)[:, 0]
        (slope,) = torch.autograd.grad(losses.sum(), theta)
        degrees = np.degrees(theta.detach().numpy())
        fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        left.plot(degrees, losses.detach().numpy(), color="#0173b2")
        left.set(xlabel="angle to the true class (degrees)", ylabel="loss")
        right.plot(degrees, slope.numpy(), color="#de8f05")
        right.set(xlabel="angle to the true class (degrees)", ylabel="slope (per radian)")
        return fig

    return dials(
        draw, "Loss and slope against the angle.", scale=dial(1, 64, 16, step=1), margin=dial(0, 1.5, 0.2)
    )


def augmentations(chosen: FaceSet) -> ipywidgets.VBox:
    """Three changed copies of up to seven faces, under the strengths of `Augmentation` (chapter 9)."""
    images, labels = chosen.images[:7], chosen.labels[:7]

    def draw(seed: int, **strengths: float) -> Figure:
        generator = torch.Generator().manual_seed(seed)
        copies = [augment(images, Augmentation(**strengths), generator) for _ in range(3)]
        rows = torch.cat([images, *[(255 * c).round().byte() for c in copies]])
        return plots.contact_sheet(FaceSet(rows, labels.repeat(4)), rows=4)

    largest = {"flip": 1, "rotate": 45, "scale": 0.5, "shift": 0.3, "brightness": 0.5, "contrast": 0.9, "erase": 1}
    strengths = {name: dial(0, high, getattr(Augmentation, name), high / 100) for name, high in largest.items()}
    return dials(
        draw, "Faces, and three changed copies of each.",
        seed=ipywidgets.IntSlider(max=50, continuous_update=False), **strengths,
    )  # fmt: skip


def hide(net: torch.nn.Module, chosen: FaceSet) -> ipywidgets.VBox:
    """The true class's probability where a gray patch hides each place of a face (chapter 10)."""

    def draw(face: int) -> Figure:
        image, true = to_float(chosen.images[face : face + 1])[0], chosen.labels[face]
        fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3), layout="constrained")
        left.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
        heat = right.imshow(occlusion(net.eval(), image)[..., true].numpy(), cmap="viridis", vmin=0, vmax=1)
        fig.colorbar(heat, label=f"probability of {CLASSES[true]}")
        for ax in (left, right):
            ax.axis("off")
        return fig

    return dials(
        draw, "A face, and the probability of its class with each place hidden.",
        face=ipywidgets.IntSlider(min=0, max=len(chosen) - 1, continuous_update=False),
    )  # fmt: skip
