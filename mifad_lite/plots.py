"""Every figure of the book. Functions draw what they are handed; `show` puts a figure on the page with its alt text."""

import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from .data import CLASSES, FaceSet
from .evaluate import wilson_interval

COLORS = dict(zip(CLASSES, sns.color_palette("colorblind", len(CLASSES)), strict=True))  # one color per emotion


def png(fig: Figure, dpi: int = 110) -> bytes:
    """A figure as PNG, cut to what is drawn; the figure is closed."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(fig)
    return buffer.getvalue()


def show(fig: Figure, alt: str, dpi: int = 110) -> None:
    """Display a figure in a notebook with alternative text, and close it. Raises ValueError for an empty `alt`."""
    from IPython.display import Image, display

    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows to someone who cannot see it")
    display(Image(png(fig, dpi), alt=alt))


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


def memory_curve(memory: list[list]) -> Figure:
    """Memory in MB against the epoch, from [epoch, MB] of a `soak` record."""
    fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
    ax.plot(*zip(*memory, strict=True), color="#0173b2")
    ax.set(xlabel="epoch", ylabel="memory (MB)", ylim=(0, 1.15 * max(mb for _, mb in memory)))
    ax.grid(alpha=0.25)
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


def opened(pixels: Tensor, out: dict[str, Tensor]) -> Figure:
    """A face, its seven scores, its angles, and the strongest maps of each column at depth 3.

    pixels: (48, 48).  out: the outputs of `export.Opened` for it, with `inside`, each without its batch dimension.
    """
    scores = out["logits"].softmax(0)
    angles = np.degrees(np.arccos(out["cosines"].clamp(-1, 1)))
    best, columns = int(scores.argmax()), [out[f"column{k}_depth3"] for k in (1, 2, 3)]
    fig = plt.figure(figsize=(8, 5.4), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(4, 5))
    face, bars = above.add_subplot(1, 3, 1), above.add_subplot(1, 3, 2)
    fan = above.add_subplot(1, 3, 3, polar=True)
    face.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    face.axis("off")
    face.set_title("what it sees", fontsize=9)
    bars.barh(CLASSES, 100 * scores, color=["#0173b2" if i == best else "0.7" for i in range(len(CLASSES))])
    bars.invert_yaxis()
    bars.set(xlim=(0, 100))
    bars.set_title("score in %", fontsize=9)
    fan.set(thetamin=0, thetamax=180, rticks=[], xticks=np.radians([0, 90, 180]))
    for i, angle in enumerate(np.radians(angles)):
        first = i == best
        fan.plot([angle, angle], [0, 1], color="#0173b2" if first else "0.6", linewidth=3 if first else 1)
    fan.set_title(f"angle to each class; {CLASSES[best]}: {angles[best]:.0f}°", fontsize=9)
    for ax in (bars, fan):
        ax.tick_params(labelsize=8)
    grid = below.subplots(3, 8)
    for row, kernel, maps in zip(grid, (7, 5, 3), columns, strict=True):
        strongest = maps.flatten(1).var(1).argsort(descending=True)
        for ax, c in zip(row, strongest, strict=False):
            ax.imshow(maps[c], cmap="viridis")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{kernel} x {kernel}", fontsize=9)
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


def reliability_diagram(tables: dict[str, dict]) -> Figure:
    """Accuracy against confidence (above) and images per bin (below), one column for each table of `reliability`."""
    fig, axes = plt.subplots(
        2, len(tables), figsize=(3 * len(tables), 4), layout="constrained", squeeze=False, sharex=True,
        height_ratios=(3, 1),
    )  # fmt: skip
    for (title, table), above, below in zip(tables.items(), *axes, strict=True):
        width = table["edges"][1]
        filled = [i for i, n in enumerate(table["n"]) if n]
        middle = [table["edges"][i] + width / 2 for i in filled]
        accuracy, confidence = ([table[key][i] for i in filled] for key in ("accuracy", "confidence"))
        ends = [wilson_interval(table["hits"][i], table["n"][i]) for i in filled]
        above.bar(middle, accuracy, 0.9 * width, color="#0173b2", alpha=0.75, label="accuracy")
        above.vlines(middle, *zip(*ends, strict=True), color="0.25", linewidth=1)
        above.plot(confidence, confidence, "o", color="#de8f05", markersize=5, label="mean confidence")
        above.plot((0, 1), (0, 1), color="0.4", linestyle="--", linewidth=1)
        above.set(ylim=(0, 1), title=title)
        below.bar([e + width / 2 for e in table["edges"][:-1]], table["n"], 0.9 * width, color="0.6")
        below.set(xlim=(0, 1), xlabel="confidence")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("images")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="upper left")
    sns.despine(fig)
    return fig


def embedding_scatter(panels: dict[str, dict]) -> Figure:
    """Faces in the plane of two principal axes, colored by emotion, with the class directions where there are any.

    panels: a title and what `inspection.sphere` returns, for each panel.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.5), layout="constrained", squeeze=False)
    for (title, found), ax in zip(panels.items(), axes[0], strict=True):
        points, labels = np.asarray(found["points"]), np.asarray(found["label"])
        reach = 0.95 * np.linalg.norm(points, axis=1).max()
        for c, name in enumerate(CLASSES):
            own = points[labels == c]
            ax.scatter(*own.T, s=9, color=COLORS[name], alpha=0.7, linewidths=0, label=name)
            if "directions" in found:
                x, y = found["directions"][c]
                ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": COLORS[name], "lw": 1.6})
        if "directions" in found:  # names on a circle around all, near their arrows but not on each other
            angles = np.arctan2(*np.asarray(found["directions"]).T[::-1])
            order = np.argsort(angles)
            for _ in range(50):
                gap = np.diff(angles[order], append=angles[order[0]] + 2 * np.pi)
                push = np.maximum(0.3 - gap, 0) / 4  # radians
                angles[order] += np.roll(push, 1) - push
            for name, angle, tip in zip(CLASSES, angles, found["directions"], strict=True):
                place = 1.06 * reach * np.cos(angle), 1.16 * reach * np.sin(angle)
                ax.annotate(
                    name, tip, place, fontsize=8, ha="center", va="center",
                    arrowprops={"arrowstyle": "-", "color": COLORS[name], "linestyle": ":"},
                )  # fmt: skip
        ends = (-1.34 * reach, 1.34 * reach)
        ax.set(title=title, aspect="equal", xticks=[], yticks=[], xlim=ends, ylim=ends)
        ax.set_xlabel(f"{100 * sum(found['variance']):.0f} % of the variance lies in this plane", fontsize=8)
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8, markerscale=2)
    return fig


def picture_rows(images: np.ndarray | Tensor, captions: list[str], across: int = 4, **style) -> Figure:
    """Small pictures (N, H, W) with captions above them, `across` in a row. style: for imshow; cmap adds a bar."""
    images = np.asarray(images)
    rows = -(-len(images) // across)
    fig, axes = plt.subplots(rows, across, figsize=(1.45 * across, 1.8 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        drawn = ax.imshow(image, **({"cmap": "gray", "vmin": 0, "vmax": 255} | style))
        ax.set_title(caption, fontsize=8.5)
    if "cmap" in style:
        fig.colorbar(drawn, ax=axes, shrink=0.7, aspect=30)
    return fig


def ablation_dots(record: dict, tables: list[str]) -> Figure:
    """Every run of some tables of an `ablate` record as a dot: private-test accuracy; bars are means."""
    rows = [(t, arm, name) for t in tables for arm, name in record["tables"][t]["arms"].items()]
    fig, ax = plt.subplots(figsize=(5.0, 0.27 * len(rows) + 0.9), layout="constrained")
    for y, (table, _, name) in enumerate(rows):
        run = record["runs"][name]
        color = sns.color_palette("colorblind")[tables.index(table)]
        mean, accuracy = 100 * run["mean"]["private"], [100 * a for a in run["accuracy"]["private"]]
        ax.plot(accuracy, [y] * len(accuracy), "o", color=color, alpha=0.7)
        ax.vlines(mean, y - 0.35, y + 0.35, color=color, linewidth=2.5)
        if y and rows[y - 1][0] != table:
            ax.axhline(y - 0.5, color="0.8", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f"{table}: {arm}" for table, arm, _ in rows])
    ax.invert_yaxis()
    ax.set_xlabel("accuracy on the private test (%)")
    ax.grid(axis="x", alpha=0.25)
    sns.despine(fig, left=True)
    ax.tick_params(axis="y", length=0)
    return fig


def forest(record: dict, table: str) -> Figure:
    """One table of an `ablate` record: the runs (left), and each arm minus the reference with 95 % intervals (right).

    Thick: over the test images alone. Thin: over images and seeds.
    """
    content = record["tables"][table]
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(5.4, 0.42 * len(content["arms"]) + 1.0), layout="constrained", sharey=True, width_ratios=(2, 3)
    )
    for y, (arm, name) in enumerate(content["arms"].items()):
        run = record["runs"][name]
        color = "0.35" if arm == content["reference"] else "#0173b2"
        accuracy = [100 * a for a in run["accuracy"]["private"]]
        left.plot(accuracy, [y] * len(accuracy), "o", color=color, alpha=0.6)
        left.vlines(100 * run["mean"]["private"], y - 0.3, y + 0.3, color=color, linewidth=2.5)
        test = content["minus_reference"].get(arm)
        if test is None:
            right.text(0, y, " reference", va="center", fontsize=9, color=color)
            continue
        for interval, width in ((test["interval_95"], 1.3), (test["images"]["interval_95"], 4)):
            right.hlines(y, *(100 * v for v in interval), color=color, linewidth=width)
        right.plot(100 * test["difference"], y, "D", color=color, markersize=7)
    right.axvline(0, color="0.5", linewidth=1)
    left.set_yticks(range(len(content["arms"])), content["arms"])
    left.set(ylim=(len(content["arms"]) - 0.5, -0.5), xlabel="accuracy (%)")
    right.set_xlabel(f"points minus “{content['reference']}”")
    for ax in (left, right):
        ax.grid(axis="x", alpha=0.25)
        ax.tick_params(axis="y", length=0)
    sns.despine(fig, left=True)
    return fig


def attention_weights(record: dict) -> Figure:
    """alpha and beta at depths 4, 5 and 6 at the end of every run of the attention table of an `ablate` record."""
    arms = record["tables"]["attention"]["arms"]
    fig, axes = plt.subplots(1, 2, figsize=(5.4, 2.9), layout="constrained", sharey=True)
    for ax, key, alone, label in (
        (axes[0], "alpha", "channel", r"$\alpha$, channels"),
        (axes[1], "beta", "spatial", r"$\beta$, places"),
    ):
        for name, color, shift in ((arms["both"], "#0173b2", -0.12), (arms[alone], "#de8f05", 0.12)):
            for values in record["runs"][name][key]:
                ax.plot([d + shift for d in (4, 5, 6)], values, "o", color=color, alpha=0.7)
        ax.axhline(0, color="0.5", linewidth=1)
        ax.set(xlabel="depth", title=label, xticks=(4, 5, 6), xlim=(3.5, 6.5))
        ax.title.set_fontsize(10)
        ax.grid(axis="y", alpha=0.25)
    axes[0].set_ylabel("at the end of training")
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=c) for c in ("#0173b2", "#de8f05")]
    fig.legend(handles, ["both blocks in the network", "this block alone"], loc="outside lower center", ncols=2,
               frameon=False, fontsize=9)  # fmt: skip
    sns.despine(fig)
    return fig


def power_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]], marks: dict[str, int]) -> Figure:
    """Chance to see a difference against the number of test images (log), one curve each; marks: lines with a name."""
    fig, ax = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    for (label, (n, power)), color in zip(curves.items(), sns.color_palette("colorblind"), strict=False):
        ax.plot(n, 100 * power, color=color, linewidth=2, label=label)
    ax.axhline(80, color="0.5", linestyle="--", linewidth=1)
    for name, n in marks.items():
        ax.axvline(n, color="0.5", linewidth=1)
        ax.text(n, 3, f" {name}", rotation=90, va="bottom", ha="right", fontsize=9)
    ax.set(xscale="log", ylim=(0, 101), xlabel="test images", ylabel="chance that p < 0.05 (%)")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    sns.despine(fig)
    return fig


def apart_ticks(ax: plt.Axes, values: list[float], ratio: float = 1.8) -> None:
    """Ticks of a logarithmic x axis at the largest value, and at those below that do not run into the last one."""
    kept: list[float] = []
    for value in sorted(values, reverse=True):
        if not kept or kept[-1] / value >= ratio:
            kept.append(value)
    ax.set_xticks(kept, [f"{t:g}" for t in kept], fontsize=8)
    ax.minorticks_off()


def scaling_curves(record: dict) -> Figure:
    """Images per second of a training step against batch, width and resolution, from a `bench --scaling` record.

    Dashed: the speed where every operation took as long as it takes the network itself, at 48 x 48.
    """
    fig, axes = plt.subplots(1, 3, figsize=(6.0, 2.6), layout="constrained", sharey=True)
    panels = (
        ("batch", record["batch"], "images in a batch", None),
        ("factor", record["width"]["rows"], "width, times lite", 1),
        ("side", record["resolution"]["rows"], "side (pixels)", 48),
    )
    for ax, (key, rows, label, own) in zip(axes, panels, strict=True):
        x, speed = [row[key] for row in rows], [row["images_per_second"] for row in rows]
        ax.loglog(x, speed, "-o", color="#0173b2", markersize=5, label="measured")
        at_own = next((row for row in rows if row[key] == own), None)
        if at_own:
            work = at_own["images_per_second"] * at_own["forward_gflop"]
            even = [work / row["forward_gflop"] for row in rows]
            ax.loglog(x, even, "--", color="#de8f05", label="as the operations say")
        apart_ticks(ax, x)
        ax.set_xlabel(label)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("images per second")
    axes[0].yaxis.set_major_formatter("{x:g}")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    sns.despine(fig)
    return fig


def attention_cost(record: dict) -> Figure:
    """Time (left) and memory (right) of spatial attention against the number of places, both axes logarithmic.

    record: of `bench --scaling`. One line for each route, forwards and backwards.
    """
    attention = record["attention"]
    fig, axes = plt.subplots(1, 2, figsize=(6.0, 3.4), layout="constrained")
    styles = zip(("o", "s", "^", "D"), ("-", "--", ":", "-"), ("#0173b2", "#de8f05", "#949494", "#029e73"), strict=True)
    for (name, rows), (marker, line, color) in zip(attention["routes"].items(), styles, strict=True):
        places = [row["side"] ** 2 for row in rows]
        for ax, key in zip(axes, ("milliseconds", "mib"), strict=True):
            ax.loglog(places, [row[key] for row in rows], line, marker=marker, color=color, markersize=5, label=name)
    for ax, label in zip(axes, ("milliseconds", "MiB"), strict=True):
        ax.set(xlabel="places HW", ylabel=f"{label}, batch of {attention['batch']}")
        apart_ticks(ax, [row["side"] ** 2 for row in max(attention["routes"].values(), key=len)])
        ax.grid(alpha=0.25)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    sns.despine(fig)
    return fig
