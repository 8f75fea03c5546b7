"""The interactive Figure 8 in a browser: moved by slider, mouse or key, its numbers are mifad_lite.geometry's."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from test_book_browser import console_errors, set_window

from mifad_lite import geometry, interactive

FIGURE = 'document.getElementById("mifad-figure8")'
SET = (
    "const [values] = arguments; for (const [name, value] of Object.entries(values)) {"
    f"""const control = {FIGURE}.querySelector(`.control [aria-label="${{name}}"]`);
    control.value = value;
    control.dispatchEvent(new Event(control.localName === "select" ? "change" : "input", {{ bubbles: true }})); }}
    return JSON.stringify({FIGURE}.state);"""
)
RULES = {"normalised": lambda m: {}, "angular": lambda m: {"m": m}, "cosine": lambda m: {"drop": m}}


@pytest.fixture
def page(browser, tmp_path):
    """The figure alone on a page, opened from disk. The caption's alt text is read as a control's name would be."""
    path = tmp_path / "figure8.html"
    block = interactive.block("figure8", {}, plt.figure(figsize=(1, 1)), alt="figure 8")
    path.write_text(f"<!doctype html><html><meta charset='utf-8'><body>{block}</body></html>", "utf8")
    set_window(browser, 1280, 2000, "light")
    browser.get(path.as_uri())
    yield browser
    assert not console_errors(browser)


def state(page, **controls):
    """Set controls by their labels ("_" for a space), as a reader would, and read what the figure shows."""
    return json.loads(page.execute_script(SET, {k.replace("_", " "): v for k, v in controls.items()}))


def assert_equal_to_geometry(shown):
    """Each number in the figure's state, from its angles, norms, s and m alone."""
    angles, phi, true, s = np.array(shown["angles"]), shown["phi"], shown["true"], shown["s"]
    margin = RULES[shown["kind"]](shown["m"])
    gap = geometry.on_circle(angles[0], angles)[1]
    near = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(shown["theta"], geometry.on_circle(phi, angles), **near)
    np.testing.assert_allclose(shown["gap"], gap, **near)
    band = geometry.band_width(gap, **margin)
    assert (shown["band"] is None) == math.isnan(band)
    assert shown["band"] is None or shown["band"] == pytest.approx(band, abs=1e-6)
    assert shown["continued"] == (shown["theta"][true] + margin.get("m", 0) > math.pi)
    softmax = {"s": shown["norms"][2] * np.array(shown["norms"][:2])}
    for seen, rule in ((shown["softmax"], softmax), (shown["chosen"], {"s": s, **margin})):
        theta = geometry.on_circle(phi, angles)
        z = geometry.logits(theta, true, **rule)
        np.testing.assert_allclose(seen["logits"], z, **near)
        np.testing.assert_allclose(seen["probability"], geometry.probabilities(z)[true], **near)
        np.testing.assert_allclose(seen["loss"], geometry.loss(z, true), **near)
        np.testing.assert_allclose(seen["partial"], geometry.gradient(theta, true, **rule), **near)
        np.testing.assert_allclose(seen["slope"], geometry.gradient_on_circle(phi, angles, true, **rule), **near)
        for own in (0, 1):
            arc = geometry.region(angles, own, **rule)
            assert (seen["regions"][own] is None) == (arc is None)
            if arc is not None:
                np.testing.assert_allclose(seen["regions"][own], arc, **near)


@pytest.mark.parametrize("kind", RULES)
def test_numbers_equal_geometry_over_a_grid(page, kind):
    """s, m, both class angles, sample and true class; gaps above and below m, and samples past theta + m = pi."""
    seen = set()
    for s in (1, 16, 64):
        for m in (0, 0.3, 1.25):
            for one, two in ((130, 50), (-170, 160), (10, 12.5), (90, -90)):
                for sample in (100, -45, 176.5):
                    true = int(sample < 0)
                    shown = state(
                        page,
                        loss=kind, scale_s=s, margin_m=m,
                        class_1=one, class_2=two, sample=sample, true_class=true,
                    )  # fmt: skip
                    given = [shown["kind"], shown["s"], shown["m"], shown["true"], *shown["angles"], shown["phi"]]
                    assert given[:4] == [kind, s, m, true]
                    np.testing.assert_allclose(given[4:], np.radians([one, two, sample]), atol=1e-12)
                    assert_equal_to_geometry(shown)
                    seen |= {("band", shown["band"] is None), ("continued", shown["continued"])}
    expected = {("band", False), ("continued", False)}
    if kind != "normalised":
        expected.add(("band", True))
    if kind == "angular":
        expected.add(("continued", True))
    assert seen == expected


def test_the_logit_goes_on_falling_past_pi(page):
    """theta + m > pi: the figure shows the continuation and says so."""
    shown = state(page, class_1=0, class_2=90, margin_m=1, true_class=0, sample=0)
    samples = np.arange(0, 180.5, 4)
    logits = [state(page, sample=v)["chosen"]["logits"][0] for v in samples]
    assert (np.diff(logits) < 0).all()
    np.testing.assert_allclose(logits, shown["s"] * geometry.psi(np.radians(samples), 1.0), atol=1e-6)
    assert "follows the continuation" in page.find_element("css selector", ".note").text
    state(page, sample=10)
    assert "continuation" not in page.find_element("css selector", ".note").text


def handle(page, name, panel):
    """The handle of "class 1", "class 2" or "sample" in panel 0 (softmax) or 1."""
    return page.find_elements("css selector", f'.mifad-figure .handle[aria-label^="{name}"]')[panel]


@pytest.mark.parametrize("name", ["class 1", "class 2", "sample"])
@pytest.mark.parametrize("panel", [0, 1])
def test_handles_by_mouse_and_keyboard(page, name, panel):
    """A drag and arrow keys move the angle; on the softmax side the length too, on the right the length stays."""
    index = ["class 1", "class 2", "sample"].index(name)

    def position(shown):
        return np.array([[*shown["angles"], shown["phi"]][index], shown["norms"][index]])

    before = state(page)
    grip = handle(page, name, panel)
    ActionChains(page).drag_and_drop_by_offset(grip, -25, 40).perform()
    dragged = state(page)
    assert_equal_to_geometry(dragged)
    assert abs(position(dragged) - position(before))[0] > 0.05
    assert (abs(position(dragged) - position(before))[1] > 0.05) == (panel == 0)
    for key in (Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_DOWN):  # the redrawn figure keeps the focus
        page.switch_to.active_element.send_keys(key)
    pressed = state(page)
    assert_equal_to_geometry(pressed)
    assert abs(position(pressed) - position(dragged)).max() > 0.02
    assert page.switch_to.active_element.get_attribute("aria-label").startswith(name)


def test_readouts_and_sentence_say_what_the_state_holds(page):
    def text():
        return page.find_element("css selector", ".readouts").text.replace("\n", " ")

    shown = state(page)
    z, softmax = shown["chosen"], shown["softmax"]
    assert f"{softmax['probability']:.4f} | {z['probability']:.4f}" in text()
    assert f"{softmax['loss']:.4f} | {z['loss']:.4f}" in text()
    assert "0.500 rad = 28.6°" in text()
    note = page.find_element("css selector", ".note")
    assert "is in the band" in note.text
    state(page, margin_m=0)
    assert note.text.startswith("The prediction is right and the loss agrees")
    state(page, sample=60)
    assert note.text.startswith("The prediction is wrong")
    state(page, margin_m=1.45)
    assert "no direction can satisfy it" in note.text
    assert "wider than the gap" in text()


def test_each_last_panel_draws_something_else(page):
    drawings = set()
    for shown in ("slope", "probability", "loss", "space"):
        state(page, last_panel=shown)
        drawings.add(page.find_elements("css selector", ".panel")[3].get_attribute("innerHTML"))
    assert len(drawings) == 4
