"""Figures say what they are handed, and each reaches the page with a text for those who cannot see it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mifad_lite import CLASSES, plots
from mifad_lite.synthetic import synthetic_faces


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_show_hands_over_picture_and_alt(monkeypatch):
    plt.close("all")  # what other files' tests left open
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    plots.show(plots.network_diagram(), alt="three columns")
    (image,) = shown
    data, metadata = image._repr_mimebundle_()
    assert data["image/png"]
    assert metadata["image/png"]["alt"] == "three columns"
    assert not plt.get_fignums(), "the figure is closed"


def test_show_refuses_a_figure_without_alt():
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show(Figure(), alt=" ")


def test_contact_sheet_puts_each_class_in_its_column():
    faces = synthetic_faces(14, seed=3)
    sheet = plots.contact_sheet(faces, rows=2).axes[0].images[0].get_array()
    for c in range(len(CLASSES)):
        first = faces.images[(faces.labels == c).nonzero()[0, 0], 0].numpy()
        np.testing.assert_array_equal(sheet[:48, c * 50 : c * 50 + 48], first)


def test_contact_sheet_puts_two_columns_of_a_class_side_by_side():
    faces = synthetic_faces(28, seed=3)
    sheet = plots.contact_sheet(faces, rows=2, across=2).axes[0].images[0].get_array()
    for c in range(len(CLASSES)):
        for place, index in enumerate((faces.labels == c).nonzero().flatten().tolist()):
            y, x = divmod(place, 2)
            shown = sheet[50 * y : 50 * y + 48, 50 * (2 * c + x) : 50 * (2 * c + x) + 48]
            np.testing.assert_array_equal(shown, faces.images[index, 0].numpy())


def test_confusion_matrix_prints_percent_of_the_true_class():
    counts = torch.full((7, 7), 1.0)
    counts[2] = torch.tensor([0, 0, 3, 1, 0, 0, 0])
    texts = [t.get_text() for t in plots.confusion_matrix(counts).axes[0].texts]
    assert texts[14:21] == ["0.0", "0.0", "75.0", "25.0", "0.0", "0.0", "0.0"]


def test_confusion_matrix_survives_an_empty_class():
    counts = torch.zeros(7, 7)
    assert len(plots.confusion_matrix(counts).axes[0].texts) == 49


def test_training_curve_marks_the_best_public_epoch():
    public = (0.3, 0.5, 0.4)
    epochs = [{"epoch": i, "loss": 1.0, "train_accuracy": 0.2, "public_accuracy": a} for i, a in enumerate(public, 1)]
    right = plots.training_curve({"epochs": epochs}).axes[1]
    assert tuple(right.lines[-1].get_xydata()[0]) == (2, 50.0)


def test_class_distribution_draws_the_counts():
    bars = plots.class_distribution({"train": [7, 6, 5, 4, 3, 2, 1]}).axes[0].patches
    assert [b.get_width() for b in bars] == [7, 6, 5, 4, 3, 2, 1]


SCALING = {
    "batch": [{"batch": b, "images_per_second": 10 * b, "forward_gflop": 2} for b in (8, 16)],
    "width": {
        "batch": 64,
        "rows": [
            {"factor": 0.5, "images_per_second": 300, "forward_gflop": 0.5},
            {"factor": 1, "images_per_second": 100, "forward_gflop": 2},
        ],
    },
    "resolution": {
        "batch": 64,
        "rows": [{"side": s, "images_per_second": 200 - s, "forward_gflop": s / 24} for s in (24, 48, 96)],
    },
    "attention": {
        "batch": 8,
        "routes": {
            name: [{"side": s, "milliseconds": s * k, "mib": s + k} for s in (6, 12, 24)[: 3 - (k == 1)]]
            for k, name in enumerate(("plain", "blocks", "fused", "table"), start=1)
        },
    },
}


def test_scaling_curves_compare_speed_with_operations():
    """At half the width a quarter of the operations: four times the speed of the whole, were all alike."""
    fig = plots.scaling_curves(SCALING)
    batch, width, side = fig.axes
    assert [len(ax.lines) for ax in fig.axes] == [1, 2, 2]
    np.testing.assert_array_equal(batch.lines[0].get_xydata(), [[8, 80], [16, 160]])
    np.testing.assert_array_equal(width.lines[0].get_xydata(), [[0.5, 300], [1, 100]])
    np.testing.assert_allclose(width.lines[1].get_ydata(), [400, 100])
    np.testing.assert_allclose(side.lines[1].get_ydata(), [304, 152, 76])
    assert "images per second" in batch.get_ylabel()
    assert "pixels" in side.get_xlabel()
    assert {t.get_text() for t in fig.legends[0].get_texts()} == {"measured", "as the operations say"}


def test_ticks_stay_apart():
    ax = plt.figure().subplots()
    ax.set_xscale("log")
    plots.apart_ticks(ax, [36, 144, 576, 1296, 2304])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2304", "576", "144", "36"]


def test_scaling_curves_of_a_network_without_its_own_size():
    rows = SCALING["width"]["rows"][:1]
    fig = plots.scaling_curves(SCALING | {"width": {"batch": 64, "rows": rows}})
    assert len(fig.axes[1].lines) == 1


def test_attention_cost_draws_places_not_sides_and_every_route():
    fig = plots.attention_cost(SCALING)
    time, memory = fig.axes
    routes = SCALING["attention"]["routes"]
    for ax, key in ((time, "milliseconds"), (memory, "mib")):
        assert ax.get_xscale() == ax.get_yscale() == "log"
        for line, rows in zip(ax.lines, routes.values(), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), [[r["side"] ** 2, r[key]] for r in rows])
        assert "batch of 8" in ax.get_ylabel()
    assert [t.get_text() for t in fig.legends[0].get_texts()] == list(routes)
    assert len({(line.get_color(), line.get_marker()) for line in time.lines}) == 4
