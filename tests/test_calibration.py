"""Calibration: bins by plain loops, the error by hand, the temperature against scipy's minimiser."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mifad_lite import plots
from mifad_lite.evaluate import expected_calibration_error, fit_temperature, reliability


def random_case(n, seed, sharp=2.0, classes=7):
    """Logits and labels that are drawn from softmax(logits): calibrated by construction."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@given(st.integers(1, 60), st.integers(0, 10_000), st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_bins_equal_plain_loops(n, seed, bins):
    logits, labels = random_case(n, seed)
    p = logits.softmax(1)
    members = [[] for _ in range(bins)]
    for row, label in zip(p.tolist(), labels.tolist(), strict=True):
        top = max(row)
        place = next(b for b in range(bins) if top <= (b + 1) / bins or b == bins - 1)
        members[place].append((top, row.index(top) == label))
    table = reliability(p, labels, bins)
    assert table["n"] == [len(b) for b in members]
    assert table["hits"] == [sum(right for _, right in b) for b in members]
    error = 0.0
    for b, confidence, accuracy in zip(members, table["confidence"], table["accuracy"], strict=True):
        if not b:
            assert confidence is accuracy is None
            continue
        assert confidence == pytest.approx(sum(c for c, _ in b) / len(b))
        assert accuracy == pytest.approx(sum(right for _, right in b) / len(b))
        error += abs(accuracy - confidence) * len(b) / n
    assert expected_calibration_error(p, labels, bins) == pytest.approx(error, abs=1e-12)


def test_error_by_hand():
    """Three answers at 0.9, one wrong; one at 0.55, wrong: 3/4 |2/3 - 0.9| + 1/4 |0 - 0.55|."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.55, 0.45]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 1])
    assert expected_calibration_error(p, labels) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.55)


def test_an_edge_belongs_to_the_bin_below():
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], dtype=torch.float64)
    assert reliability(p, torch.tensor([0, 0, 0]), bins=4)["n"] == [0, 1, 1, 1]
    assert reliability(p, torch.tensor([0, 0, 0]), bins=4)["edges"] == [0, 0.25, 0.5, 0.75, 1]


def test_one_bin_is_confidence_against_accuracy():
    logits, labels = random_case(200, 1)
    p = logits.softmax(1)
    gap = abs(p.amax(1).mean().item() - (p.argmax(1) == labels).double().mean().item())
    assert expected_calibration_error(p, labels, bins=1) == pytest.approx(gap)


@pytest.mark.parametrize(("n", "bins"), [(0, 10), (5, 0)])
def test_nothing_to_bin(n, bins):
    with pytest.raises(ValueError, match=f"{n} images in {bins} bins"):
        reliability(torch.full((n, 7), 1 / 7), torch.zeros(n, dtype=torch.int64), bins)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stretch", [0.3, 1.0, 4.0])
def test_temperature_is_the_minimum_that_scipy_finds(seed, stretch):
    logits, labels = random_case(300, seed)
    logits = stretch * logits

    def loss(log_t):
        scaled = logits.numpy() / math.exp(log_t)
        top = scaled.max(1)
        total = np.log(np.exp(scaled - top[:, None]).sum(1)) + top
        return (total - scaled[np.arange(len(scaled)), labels.numpy()]).mean()

    found = minimize_scalar(loss, bounds=(math.log(0.01), math.log(100)), method="bounded", options={"xatol": 1e-10})
    assert fit_temperature(logits, labels) == pytest.approx(math.exp(found.x), rel=1e-5)


def test_temperature_undoes_a_stretch():
    """Calibrated logits need T near 1; stretched by 5 they need 5 times that, and the predictions stay."""
    logits, labels = random_case(4000, 7)
    plain = fit_temperature(logits, labels)
    assert plain == pytest.approx(1, abs=0.05)
    assert fit_temperature(5 * logits, labels) == pytest.approx(5 * plain, rel=1e-6)
    stretched = (5 * logits).softmax(1)
    cooled = (5 * logits / fit_temperature(5 * logits, labels)).softmax(1)
    assert torch.equal(stretched.argmax(1), cooled.argmax(1))
    assert expected_calibration_error(cooled, labels) < 0.03 < expected_calibration_error(stretched, labels)


def test_temperature_has_ends():
    """All right: the sharper the better. All wrong: the flatter the better."""
    logits = torch.eye(7)
    assert fit_temperature(logits, torch.arange(7)) == pytest.approx(0.01, rel=1e-9)
    assert fit_temperature(logits, (torch.arange(7) + 1) % 7) == pytest.approx(100, rel=1e-9)


def test_reliability_diagram_draws_the_bins():
    """Bars at the accuracy of the filled bins, dots at their confidence, counts below; empty bins leave a gap."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.55, 0.45]], dtype=torch.float64)
    table = reliability(p, torch.tensor([0, 1, 1, 1]), bins=5)
    fig = plots.reliability_diagram({"plain": table, "again": table})
    above, below = fig.axes[0], fig.axes[2]
    assert [bar.get_height() for bar in above.patches] == pytest.approx([0, 2 / 3])
    assert [bar.get_x() + bar.get_width() / 2 for bar in above.patches] == pytest.approx([0.5, 0.9])
    assert above.lines[0].get_xydata().ravel() == pytest.approx([0.55, 0.55, 0.9, 0.9])
    assert [bar.get_height() for bar in below.patches] == [0, 0, 1, 0, 3]
    assert [ax.get_title() for ax in fig.axes] == ["plain", "again", "", ""]
    plt.close(fig)
