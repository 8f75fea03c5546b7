"""Chapter 13's figure: its losses are the integrals they stand for, its wall that of the line."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mifad_lite import interactive

MOVE = """
const root = document.getElementById("mifad-valleys");
const handles = root.querySelectorAll(".handle");
for (const [which, key, times] of arguments[0])
  for (let i = 0; i < times; i++)
    handles[which].dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey: true, bubbles: true }));
const slider = root.querySelector("input[type=range]");
slider.value = arguments[1];
slider.dispatchEvent(new Event("input"));
if (arguments[2]) root.querySelector("button").click();
return { state: root.state, note: root.querySelector(".note").textContent, live: root.classList.contains("live") };
"""


@pytest.fixture
def page(browser, tmp_path):
    def opened(a, b):
        path = tmp_path / "valleys.html"
        html = interactive.block("valleys", {"a": a, "b": b}, plt.figure(), "Two valleys.")
        path.write_text(f"<!doctype html><meta charset='utf8'><body>{html}</body>", "utf8")
        browser.get(path.as_uri())
        return browser

    return opened


def loss(w):
    """The mean over [-1, 1] by the midpoint rule, fine enough for six digits."""
    x = (np.arange(200_000) + 0.5) / 100_000 - 1
    made = np.maximum(w[0] * x, 0) + np.maximum(w[1] * x, 0)
    return ((made - np.abs(x)) ** 2).mean()


@pytest.mark.parametrize(
    ("a", "b", "moves", "share"),
    [
        ([1.0, -1.0], [-1.0, 1.0], [], 0.5),
        ([1.1, -0.9], [-0.95, 1.05], [(0, "ArrowDown", 2), (1, "ArrowLeft", 1)], 0.3),
        ([0.5, 0.7], [-0.2, -1.4], [(0, "ArrowRight", 40), (1, "ArrowUp", 3)], 0.85),
    ],
)
def test_losses_and_the_wall(page, a, b, moves, share):
    found = page(a, b).execute_script(MOVE, moves, share, False)
    assert found["live"]
    s = found["state"]
    if not moves:
        assert (s["a"], s["b"]) == (a, b)
    assert s["a"] != a or not moves
    assert np.abs([s["a"], s["b"]]).max() <= 1.6, "a handle left the map"
    first, last = np.array(s["a"]), np.array(s["b"])
    here = (1 - share) * first + share * last
    assert s["here"] == pytest.approx(here)
    assert s["loss"] == pytest.approx(loss(here), rel=1e-5, abs=1e-6)
    ends = [loss(first), loss(last)]
    assert s["ends"] == pytest.approx(ends, rel=1e-5, abs=1e-6)
    line = np.linspace(0, 1, 101)
    over = [loss((1 - t) * first + t * last) - (1 - t) * ends[0] - t * ends[1] for t in line]
    assert s["wall"] == pytest.approx(max(over), rel=1e-4, abs=1e-5)
    assert ("No wall" in found["note"]) == (s["wall"] < 0.01)


def test_a_steep_network_is_drawn_with_its_own_slope(page):
    """Slopes of 3 and 0 leave the graph: the line is cut there, and not bent to fit."""
    driver = page([1.5, 1.5], [1.5, 1.5])
    drawn = driver.execute_script(
        'return document.querySelector("#mifad-valleys").querySelector("path[stroke=\'var(--c3)\']").getAttribute("d")'
    )
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split()) for point in re.split("[ML]", drawn)[1:])
    assert (x1 - x0, y1 - y0) == pytest.approx((140, 0))
    assert (y1 - y2) / 62 == pytest.approx(3 * (x2 - x1) / 140, rel=1e-3)


def test_swapped_neurons_are_the_same_network_behind_a_wall(page):
    """Halfway between (1, -1) and (-1, 1) lies the network that is zero everywhere: a third, the mean of x squared."""
    driver = page([1.0, -1.0], [-1.0, 1.0])
    before = driver.execute_script(MOVE, [], 0.5, False)["state"]
    assert before["ends"] == [0, 0]
    assert before["loss"] == before["wall"] == pytest.approx(1 / 3)
    after = driver.execute_script(MOVE, [], 0.5, True)
    assert after["state"]["b"] == [1, -1]
    assert after["state"]["ends"] == [0, 0]
    assert after["state"]["wall"] == 0
    assert "No wall" in after["note"]
