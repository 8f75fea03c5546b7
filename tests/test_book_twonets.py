"""The figure of chapter 11 in a browser: its McNemar test against scipy, its counts, intervals and power by formula."""

import math

import matplotlib.pyplot as plt
import pytest
from scipy.stats import binomtest, norm

from mifad_lite import interactive
from mifad_lite.evaluate import wilson_interval

DATA = {"n": 3589, "accuracy": 0.74, "points": 1.97, "disagree": 0.2}
# test faces (log 10), accuracy, gap in points, share of disagreement; the last three are out of reach and get clipped
SETTINGS = [
    (None, None, None, None), (2, 0.7, 5, 0.1), (3.5, 0.9, 0.5, 0.03), (5, 0.6, 1.0, 0.45), (4.5, 0.8, 0.05, 0.05),
    (5, 0.74, 6, 0.5), (2.5, 0.95, 1, 0.5), (4, 0.5, 6, 0.01), (3, 0.75, 3, 0.01),
]  # fmt: skip
SET = """
const inputs = document.querySelectorAll("#mifad-twonets input");
arguments[0].forEach((value, i) => {
  if (value === null) return;
  inputs[i].value = value;
  inputs[i].dispatchEvent(new Event("input", { bubbles: true }));
});
const root = document.getElementById("mifad-twonets");
return { state: root.state, text: root.querySelector(".note").textContent, live: root.classList.contains("live") };
"""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    html = interactive.block("twonets", DATA, plt.figure(), "Two networks on the same faces")
    path = tmp_path_factory.mktemp("twonets") / "page.html"
    path.write_text(f"<!doctype html><meta charset='utf8'><body>{html}</body>", "utf8")
    browser.get(path.as_uri())
    return browser


@pytest.mark.parametrize("values", SETTINGS)
def test_numbers(page, values):
    page.refresh()
    found = page.execute_script(SET, values)
    assert found["live"]
    s = found["state"]
    n, accuracy, points, share = (
        d if v is None else v for v, d in zip(values, DATA.values(), strict=True)
    )  # the first as a count, or as its logarithm
    if values[0] is not None:
        n = round(10 ** values[0] / 10) * 10
    assert s["n"] == n
    gap = points / 100
    q = min(max(share, gap), 2 * accuracy - gap, 2 * (1 - accuracy) + gap)
    b, c = s["only_a"], s["only_b"]
    assert [b, c] == pytest.approx([n * (q + gap) / 2, n * (q - gap) / 2], abs=0.5 + 1e-6)
    assert s["both"] + b == pytest.approx(n * accuracy, abs=0.5 + 1e-6)
    assert s["both"] + b + c + s["neither"] == n
    assert min(s["both"], s["neither"], b, c) >= -1  # rounding at the edge of what is possible
    assert s["p"] == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9, abs=1e-300)
    assert ("does not see" in found["text"]) == (s["p"] >= 0.05)

    first, second = s["both"] + b, s["both"] + c
    low, high = wilson_interval(first, n)[0], wilson_interval(second, n)[1]
    assert s["overlap"] == (low < high)
    middle = (first + second) / 2 / n
    z = (first - second) / n / math.sqrt(2 * middle * (1 - middle) / n)
    assert s["apart"] == pytest.approx(2 * norm.sf(abs(z)), abs=1e-6)
    spread = math.sqrt(q - gap * gap)
    assert s["need"] == pytest.approx(((norm.ppf(0.975) * math.sqrt(q) + norm.ppf(0.8) * spread) / gap) ** 2, rel=1e-5)
    assert s["power"] == pytest.approx(
        norm.cdf((gap * math.sqrt(n) - norm.ppf(0.975) * math.sqrt(q)) / spread), abs=1e-5
    )
