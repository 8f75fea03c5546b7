"""Every figure of the book. Functions draw what they are handed; `show` puts a figure on the page with its alt text."""

import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from .data import CLASSES, FaceSet

COLORS = dict(zip(CLASSES, sns.color_palette("colorblind", len(CLASSES)), strict=True))  # one color per emotion


def show(fig: Figure, alt: str, dpi: int = 110) -> None:
    """Display a figure in a notebook with alternative text, and close it. Raises ValueError for an empty `alt`."""
    from IPython.display import Image, display

    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows to someone who cannot see it")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(fig)
    display(Image(buffer.getvalue(), alt=alt))


def contact_sheet(faces: FaceSet, rows: int = 4, across: int = 1) -> Figure:
    """The first `rows * across` faces of each class, `across` columns a class. Empty places stay white."""
    columns = len(CLASSES) * across
    sheet = np.full((rows * 50, columns * 50), 255, dtype=np.uint8)
    for c in range(len(CLASSES)):
        for place, index in enumerate((faces.labels == c).nonzero().flatten()[: rows * across].tolist()):
            y, x = 50 * (place // across), 50 * (c * across + place % across)
            sheet[y : y + 48, x : x + 48] = faces.images[index, 0].numpy()
    fig, ax = plt.subplots(figsize=(7, 7 * rows / columns + 0.3))
    ax.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    ax.set_xticks((np.arange(len(CLASSES)) + 0.5) * 50 * across - 1, CLASSES)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks([])
    sns.despine(ax=ax, left=True, bottom=True)
    return fig


def training_curve(record: dict) -> Figure:
    """Loss (left) and accuracy in percent (right) against the epoch, from the record of a run."""
    epochs = [e["epoch"] for e in record["epochs"]]
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1), layout="constrained")
    left.plot(epochs, [e["loss"] for e in record["epochs"]], color="0.25", marker="." if len(epochs) < 12 else None)
    left.set(xlabel="epoch", ylabel="training loss")
    for key, label, color in (
        ("train_accuracy", "training, augmented", "#999999"),
        ("public_accuracy", "public test", "#0173b2"),
    ):
        right.plot(epochs, [100 * e[key] for e in record["epochs"]], color=color, label=label)
    best = max(record["epochs"], key=lambda e: e["public_accuracy"])
    right.plot(best["epoch"], 100 * best["public_accuracy"], "o", color="#0173b2")
    right.set(xlabel="epoch", ylabel="accuracy (%)")
    right.legend(frameon=False, loc="lower right")
    for ax in (left, right):
        ax.grid(alpha=0.25)
        ax.xaxis.get_major_locator().set_params(integer=True)
    sns.despine(fig)
    return fig


def confusion_matrix(counts: list[list[int]] | Tensor) -> Figure:
    """CP_ij = n_ij / n_i in percent, rows the true class (the paper's equation; its Figure 9)."""
    counts = np.asarray(counts, dtype=float)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    fig, ax = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    sns.heatmap(
        percent, ax=ax, annot=True, fmt=".1f", cmap="Blues", vmin=0, vmax=100, square=True, linewidths=0.5,
        xticklabels=CLASSES, yticklabels=CLASSES, cbar_kws={"label": "percent of the true class", "shrink": 0.8},
    )  # fmt: skip
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(axis="x", rotation=45)
    ax.tick_params(axis="y", rotation=0)
    return fig


def class_distribution(counts: dict[str, list[int]]) -> Figure:
    """Images per class, one panel per split (the paper's Figure 10 shows training)."""
    fig, axes = plt.subplots(1, len(counts), figsize=(2.9 * len(counts), 2.9), layout="constrained", squeeze=False)
    for ax, (split, numbers) in zip(axes[0], counts.items(), strict=True):
        bars = ax.barh(CLASSES, numbers, color=[COLORS[name] for name in CLASSES])
        ax.bar_label(bars, [f"{n:,}" for n in numbers], padding=2, fontsize=8)
        ax.set_title(f"{split}: {sum(numbers):,}", fontsize=10)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.22 * max(numbers))
        ax.set_xticks([])
        sns.despine(ax=ax, bottom=True)
        if ax is not axes[0, 0]:
            ax.set_yticklabels([])
    return fig


def network_diagram() -> Figure:
    """Figure 1 in our words: three columns, fusion at depths 4, 5 and 6, embedding, angles to seven classes."""
    colors = {7: "#de8f05", 5: "#0173b2", 3: "#029e73"}  # orange, blue, green, as in the paper's Figure 7
    fig, ax = plt.subplots(figsize=(9, 3.9))
    ax.set(xlim=(0, 18), ylim=(-0.3, 8.1))
    ax.axis("off")

    def box(x: float, y: float, width: float, height: float, color: str, text: str = "", size: float = 8) -> None:
        ax.add_patch(plt.Rectangle((x, y), width, height, facecolor=color, edgecolor="0.2", linewidth=0.7, zorder=2))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, zorder=3)

    def arrow(start: tuple[float, float], end: tuple[float, float], color: str = "0.45") -> None:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": color, "linewidth": 0.8}, zorder=1)

    box(0.1, 2.9, 1.3, 1.3, "0.85", "face\n48 x 48")
    heights = (2.0, 1.5, 1.5, 1.1, 1.1, 1.1)  # the map's side: 48, 24, 24, 12, 12, 12
    for row, (kernel, color) in enumerate(colors.items()):
        y = 6.2 - 2.45 * row
        arrow((1.4, 3.55), (2.2, y))
        ax.text(2.58, y + 1.08, f"{kernel} x {kernel}", ha="center", va="bottom", fontsize=7, color=color)
        for depth, height in enumerate(heights):
            x = 2.3 + 1.15 * depth
            box(x, y - height / 2, 0.55, height, color)
            if depth:
                arrow((x - 0.6, y), (x, y))
            if row == 0:
                ax.text(x + 0.27, 7.8, str(depth + 1), ha="center", fontsize=8, color="0.35")
    ax.text(1.9, 7.8, "depth", ha="right", fontsize=8, color="0.35")
    for i, depth in enumerate((4, 5, 6)):
        y = 5.6 - 2.05 * i
        box(10.6, y - 0.6, 2.5, 1.2, "#f2e6f7", f"gate, attention,\nsplice: depth {depth}", 7.5)
        for row, color in enumerate(colors.values()):
            arrow((2.3 + 1.15 * (depth - 1) + 0.55, 6.2 - 2.45 * row), (10.6, y), color)
        arrow((13.1, y), (13.8, 3.55))
    box(13.8, 2.75, 1.9, 1.6, "#f7e3d0", "embedding", 8)
    arrow((15.7, 3.55), (16.3, 3.55))
    box(16.3, 2.0, 1.6, 3.1, "#e3eef7", "s cos θ\nto seven\nclasses", 8)
    return fig
