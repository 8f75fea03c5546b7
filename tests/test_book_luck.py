"""Chapter 12's figure: its probabilities are those of the normal distribution."""

import math

import matplotlib.pyplot as plt
import pytest
from scipy import stats

from mifad_lite import interactive

SET = """
const root = document.getElementById("mifad-luck");
for (const [label, value] of Object.entries(arguments[0])) {
  const input = root.querySelector(`[aria-label="${label}"]`);
  input.value = value;
  input.dispatchEvent(new Event("input"));
}
return root.state;
"""


@pytest.mark.parametrize("size", [2.5, 3.0, 3.555, 4.4, 5.0])
@pytest.mark.parametrize(("accuracy", "lead", "rivals"), [(0.74, 1.02, 7), (0.5, 4.9, 1), (0.95, 0.3, 30)])
def test_probabilities(browser, tmp_path, size, accuracy, lead, rivals):
    page = tmp_path / "luck.html"
    data = {"n": 3589, "lead": 1.02}
    page.write_text("<!doctype html><body>" + interactive.block("luck", data, plt.figure(), "Luck."), "utf8")
    browser.get(page.as_uri())
    wanted = {"test faces": size, "true accuracy": accuracy, "claimed lead": lead, "rivals tried": rivals}
    state = browser.execute_script(SET, wanted)
    assert state["n"] == (3589 if size == 3.555 else round(10**size / 10) * 10)
    se = 100 * math.sqrt(state["accuracy"] * (1 - state["accuracy"]) / state["n"])
    one = 2 * stats.norm.sf(state["lead"] / (math.sqrt(2) * se))
    assert state["se"] == pytest.approx(se, rel=1e-9)
    assert state["p"] == pytest.approx(one, rel=1e-6, abs=1e-12)
    assert state["any"] == pytest.approx(1 - (1 - one) ** rivals, rel=1e-6, abs=1e-9)
