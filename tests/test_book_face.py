"""The page that runs the network, opened from disk in a browser without a connection: every source, every failure."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.ui import WebDriverWait

from mifad_lite import load_network, synthetic_faces
from mifad_lite.predict import read_face
from mifad_lite.records import read_record

PAGE = "book/face.html"
STATE = """const s = document.getElementById("mifad-face").state;
const status = document.querySelector("#mifad-face .status")?.textContent;
return { ...s, face: s.face && Array.from(s.face), status };"""


class Page:
    def __init__(self, browser, html):
        self.browser, self.url = browser, (html / PAGE).as_uri()

    def open(self):
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 1280, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )
        self.browser.get(self.url)

    def find(self, selector):
        return self.browser.find_element("css selector", f"#mifad-face {selector}")

    def button(self, text):
        buttons = self.browser.find_elements("css selector", "#mifad-face button")
        return next(b for b in buttons if b.text == text)

    def click(self, text):
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.button(text))
        self.button(text).click()

    def state(self):
        return self.browser.execute_script(STATE)

    def wait(self, condition, seconds=40):
        """The page's state once `condition` holds of it."""

        def look(_):
            state = self.state()
            return state if condition(state) else None

        try:
            return WebDriverWait(self.browser, seconds, 0.1).until(look)
        except TimeoutException:
            pytest.fail(f"the page stays at {self.state() | {'face': '...'}}", pytrace=False)

    def choose(self, path):
        self.browser.find_element("css selector", "#mifad-face input[type=file]").send_keys(str(path))

    def upload(self, path):
        """The state once the picture is open, and a face in it was found or not."""
        self.choose(path)
        return self.wait(lambda s: s.get("picture") == path.name)


@pytest.fixture(scope="module")
def page(browser, html):
    """The page with its network started."""
    page = Page(browser, html)
    page.open()
    page.click("Start the network")
    page.wait(lambda s: s["frames"] > 0)
    yield page
    errors = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    browser.get("about:blank")
    assert not errors


@torch.no_grad()
def scores(name, face):
    """PyTorch's probabilities for the 2,304 numbers that the page fed its network."""
    net, _ = load_network(name)
    return net(torch.tensor(face).reshape(1, 1, 48, 48).float())[0].softmax(0).tolist()


def photograph(width=400, height=300, side=240, seed=0):
    """A grey picture with a drawn face in its middle, larger than the network's window."""
    face = Image.fromarray(synthetic_faces(20, seed=seed).images[3, 0].numpy()).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    out = Image.new("L", (width, height), 90)
    out.paste(face, ((width - side) // 2, (height - side) // 2))
    return out


def test_the_pixels_and_scores_are_those_of_pytorch(page):
    text = (ROOT / "book/_static/face/examples.js").read_text()
    examples = json.loads(text[text.index("[") : text.rindex("]") + 1])
    options = page.browser.find_elements("css selector", "#mifad-face .thumbs button")
    assert len(options) == len(examples) == 14
    for i in (0, 6, 9):
        before = page.state()["frames"]
        options[i].click()
        state = page.wait(lambda s, before=before: s["frames"] > before and s["kind"] == "faces")
        pixels = np.frombuffer(base64.b64decode(examples[i]["pixels"]), np.uint8)
        np.testing.assert_allclose(state["face"], pixels / 255, atol=1e-6)  # not one pixel is smoothed
        np.testing.assert_allclose(state["probabilities"], scores("drawn", state["face"]), atol=1e-4)
        assert state["best"] == examples[i]["label"]
        row = page.find(".scores .best")
        assert row.text.split()[0] == state["best"]
        assert f"{state['angles'][i % 7]:.0f}°" in row.text


def test_error_rates_stand_beside_each_word(page):
    counts = np.array(read_record("inspection_drawn")["private"]["confusion"])
    for i, row in enumerate(page.browser.find_elements("css selector", "#mifad-face .scores tbody tr")):
        wrong, misses = (round(100 * (1 - counts[i, i] / n)) for n in (counts[:, i].sum(), counts[i].sum()))
        assert [c.text for c in row.find_elements("css selector", "td")][2:] == [f"{wrong} %", f"{misses} %"]
    sentence = page.find(".sentence").text
    assert "wrongly in" in sentence
    assert "not about what anyone feels" in sentence
    assert page.browser.find_elements("css selector", "article a[href*='12_paper']")


def test_keys_move_the_square_and_sliders_bend_the_picture(page):
    stage = page.find("canvas[role=application]")
    stage.send_keys("-")
    small = page.wait(lambda s: s["square"]["side"] < 48)
    stage.send_keys(Keys.ARROW_LEFT)
    moved = page.wait(lambda s: s["square"]["x"] < small["square"]["x"])
    assert moved["square"]["side"] == small["square"]["side"]
    for label in ("turn", "light"):
        before = page.state()
        page.find(f"input[aria-label={label}]").send_keys(Keys.ARROW_RIGHT)
        after = page.wait(lambda s, before=before: s["frames"] > before["frames"])
        assert after["face"] != before["face"]
        np.testing.assert_allclose(after["probabilities"], scores("drawn", after["face"]), atol=1e-4)
    page.find("select[aria-label='depth of the maps']").send_keys("depth 6")
    page.wait(lambda s: page.find(".maps canvas").get_attribute("width") == "12")
    assert len(page.browser.find_elements("css selector", "#mifad-face .maps canvas")) == 24


def test_the_square_can_be_dragged(page, tmp_path):
    photograph().save(tmp_path / "face.png")
    before = page.upload(tmp_path / "face.png")
    assert (before["kind"], before["name"]) == ("file", "lite")
    stage = page.find("canvas[role=application]")
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    for _ in range(5):
        stage.send_keys("-")
    small = page.wait(lambda s: s["square"]["side"] < before["square"]["side"])
    ActionChains(page.browser, duration=50).move_to_element(stage).click_and_hold().move_by_offset(
        20, 10
    ).release().perform()
    after = page.wait(lambda s: s["square"]["x"] > small["square"]["x"])
    scale = 320 / 400  # stage to picture
    assert after["square"]["x"] - small["square"]["x"] == pytest.approx(20 / scale, abs=2)
    assert after["square"]["y"] - small["square"]["y"] == pytest.approx(10 / scale, abs=2)


def test_a_picture_is_read_as_predict_reads_it(page, tmp_path):
    photograph(width=300).save(tmp_path / "a face, ü.png")
    frames = page.upload(tmp_path / "a face, ü.png")["frames"]
    page.browser.execute_script(
        """const size = document.querySelector("#mifad-face input[aria-label='size of the square']");
        size.value = 100; size.dispatchEvent(new Event("input"));"""
    )
    assert not page.find("input[type=checkbox]").is_selected()  # by hand from now on
    state = page.wait(lambda s: s["square"] == {"x": 0, "y": 0, "side": 300} and s["frames"] > frames)
    ours = read_face(tmp_path / "a face, ü.png").flatten().numpy() / 255  # shrunk by Pillow
    assert np.abs(np.array(state["face"]) - ours).mean() < 2 / 255
    np.testing.assert_allclose(state["probabilities"], scores("lite", state["face"]), atol=1e-4)
    assert np.argmax(state["probabilities"]) == np.argmax(scores("lite", ours))


def test_the_square_goes_where_the_face_is(page, tmp_path):
    out = Image.new("RGB", (900, 600), "gray")
    out.paste(Image.open(ROOT / "tests/finder/astronaut.png").convert("RGB").resize((384, 384)), (450, 100))
    out.save(tmp_path / "photo.jpg")
    state = page.upload(tmp_path / "photo.jpg")
    assert state["found"]["score"] > 0.8
    for x, y in ((52, 37), (70, 38), (60, 53)):  # her eyes and her mouth, in the photograph of 128 pixels
        assert state["square"]["x"] < 450 + 3 * x < state["square"]["x"] + state["square"]["side"]
        assert state["square"]["y"] < 100 + 3 * y < state["square"]["y"] + state["square"]["side"]
    assert state["status"] == ""


def test_forty_megapixels(page, tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 8000).astype(np.uint8), (5000, 8000))
    Image.fromarray(ramp).save(tmp_path / "large.png", compress_level=1)
    state = page.upload(tmp_path / "large.png")
    assert "No face found" in state["status"]
    rows = np.array(state["face"]).reshape(48, 48)
    expected = (1500 + 5000 * (np.arange(48) + 0.5) / 48) / 8000  # the central square of the ramp
    np.testing.assert_allclose(rows.mean(0), expected, atol=0.01)


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.jpg", b"This is a text.\n"), ("empty.png", b""), ("half.png", None)],
)
def test_what_is_no_picture_gets_a_sentence(page, tmp_path, name, content):
    if content is None:
        buffer = io.BytesIO()
        photograph().save(buffer, "png")
        content = buffer.getvalue()[:60]
    (tmp_path / name).write_bytes(content)
    before = page.state()
    page.choose(tmp_path / name)
    state = page.wait(lambda s: "is not a picture" in s["status"])
    assert state["status"] == f"{name} is not a picture that this browser can read: choose a JPEG, PNG or WebP."
    assert state["kind"] == before["kind"]  # what was there is still there
    assert state["face"] == before["face"]


def test_a_picture_that_is_no_face_still_gets_words_and_says_what_they_are(page, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 260), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    state = page.upload(tmp_path / "noise.png")
    assert "No face found" in state["status"]
    assert sum(state["probabilities"]) == pytest.approx(1)
    assert "It scores whatever is in the square." in state["status"]


def test_a_stroke_changes_the_scores(page):
    page.click("Draw one")
    before = page.wait(lambda s: s["kind"] == "draw" and s["name"] == "drawn")
    stage = page.find("canvas[role=application]")
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    ActionChains(page.browser, duration=50).move_to_element_with_offset(
        stage, -40, 100
    ).click_and_hold().move_by_offset(80, 5).release().perform()
    after = page.wait(lambda s: s["frames"] > before["frames"] and s["face"] != before["face"])
    assert np.abs(np.subtract(after["probabilities"], before["probabilities"])).max() > 1e-4
    page.click("begin again")
    again = page.wait(lambda s: s["face"] == before["face"])
    np.testing.assert_allclose(again["probabilities"], before["probabilities"], atol=1e-6)


def test_the_camera_runs_and_stops(page):
    page.browser.execute_script(
        """const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (...a) => (window.lent = await get(...a));"""
    )
    page.click("Camera")
    first = page.wait(lambda s: s["kind"] == "camera" and s["name"] == "lite" and s["face"])
    page.wait(lambda s: s["frames"] >= first["frames"] + 3 and s["face"] != first["face"])  # it films a moving figure
    alive = "return window.lent.getTracks().map(t => t.readyState)"
    assert page.browser.execute_script(alive) == ["live"]
    page.click("Drawn faces")
    page.wait(lambda s: s["kind"] == "faces")
    assert page.browser.execute_script(alive) == ["ended"]  # the camera's light goes out
    page.browser.execute_script(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') }"
    )
    page.click("Camera")
    state = page.wait(lambda s: s["status"])
    assert state["status"] == "No camera: you or the browser did not allow it. Choose another source."
    page.click("Drawn faces")


def test_nothing_came_from_the_network_and_it_is_small(page, html):
    names = page.browser.execute_script(
        """return [...performance.getEntriesByType("resource").map(e => e.name),
        ...[...document.scripts].map(s => s.src).filter(Boolean)];"""
    )
    assert {"ort.wasm.min.js", "network_lite.js", "finder.js"} < {name.split("/")[-1].split("?")[0] for name in names}
    assert all(name.startswith(("file:", "data:", "blob:")) for name in names)
    folders = [html / "_static/face", html / "_static/vendor/onnxruntime", html / "_static/vendor/blazeface"]
    size = sum(p.stat().st_size for folder in folders for p in folder.iterdir())
    assert size < 15e6
    assert f"about {size / 1e6:.0f} MB" in page.find(".why").text


def test_without_webassembly_the_still_stays(browser, html):
    page = Page(browser, html)
    off = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.WebAssembly; delete window.GPU"}
    )
    try:
        page.open()
        assert page.find(".still").is_displayed()
        assert "no WebAssembly" in page.find(".why").text
        assert not browser.find_elements("css selector", "#mifad-face button")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", off)


def test_a_missing_file_gets_a_sentence(browser, html, tmp_path):
    import shutil

    copy = tmp_path / "html"
    shutil.copytree(html, copy, ignore=shutil.ignore_patterns("network_drawn.js", "reports", "_images"))
    page = Page(browser, copy)
    page.open()
    page.click("Start the network")
    state = page.wait(lambda s: "missing" in s["status"])
    assert state["status"] == "network_drawn.js is missing from this copy of the book: build it again"
    assert page.button("Start the network").is_enabled()
    browser.get("about:blank")
    browser.get_log("browser")
