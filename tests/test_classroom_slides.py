"""The slides of book/_static/slides: what stands in them, and how they look in a browser without a network.

Only making them anew needs nbconvert and math-core; MIFAD_REQUIRE_CLASSROOM=1 makes it an error where they are missing.
"""

import base64
import importlib
import json
import os
import re
import struct
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

BOOK = Path(__file__).parents[1] / "book"
NAMES = ("03", "04", "07")
BODY = "p, li, td, th, pre, h1, h2, h3"  # what has to be legible from the back row

# Goes through the slides as a teacher would, and says what the back row would see go wrong.
LOOK = """
const done = arguments[arguments.length - 1], [smallest] = arguments, problems = [];
(async () => {
  if (!Reveal.isReady()) await new Promise(ready => Reveal.on("ready", ready));
  await document.fonts.ready;
  const { width, height } = Reveal.getConfig(), scale = Reveal.getScale();
  for (const [index, slide] of Reveal.getSlides().entries()) {
    const at = Reveal.getIndices(slide), say = what => problems.push(`slide ${index + 1}: ${what}`);
    Reveal.slide(at.h, at.v);
    if (slide.scrollHeight > height || slide.scrollWidth > width)
      say(`${slide.scrollWidth} x ${slide.scrollHeight} on a stage of ${width} x ${height}`);
    const stage = slide.getBoundingClientRect();
    for (const part of slide.querySelectorAll("div *")) {
      if (part.closest("aside")) continue;
      const box = part.getBoundingClientRect();
      if (box.width && (box.left < stage.left - 1 || box.right > stage.left + width * scale + 1))
        say("sticks out: " + part.outerHTML.slice(0, 80));
      if (part.matches(arguments[1]) && parseFloat(getComputedStyle(part).fontSize) < smallest)
        say("too small: " + part.textContent.slice(0, 40));
    }
    for (const image of slide.querySelectorAll("img")) {
      await image.decode();
      const box = image.getBoundingClientRect();
      if (box.height < 0.6 * height * scale && box.width < width * scale - 1) say("a small figure");
    }
  }
  for (const { name } of performance.getEntriesByType("resource"))
    if (!/^(file|data|blob):/.test(name)) problems.push("fetched from the network: " + name);
  done(problems);
})().catch(error => done(["" + error]));
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the slides as the command makes them now."""
    for library in ("nbconvert", "math_core"):
        if os.environ.get("MIFAD_REQUIRE_CLASSROOM"):
            importlib.import_module(library)
        else:
            pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("slides")
    sys.path.insert(0, str(BOOK / "classroom"))
    try:
        slides = importlib.import_module("slides")
    finally:
        sys.path.pop(0)
    for name in NAMES:
        (folder / f"{name}.html").write_text(slides.Deck(name).page(), encoding="utf-8", newline="\n")
    return folder


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def path(name):
    return BOOK / "_static" / "slides" / f"{name}.html"


@pytest.fixture
def page(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def shown(page):
    """The slides without their notes, each as a tag of its own."""
    for notes in page.select("aside.notes"):
        notes.decompose()
    return [section for section in page.select(".slides section") if not section.find("section")]


def outputs(name):
    """Every output of the chapter's notebook up to its exercises."""
    for cell in json.loads(next(BOOK.glob(f"{name}_*.ipynb")).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown" and re.search("^## Exercises", "".join(cell["source"]), re.MULTILINE):
            return
        yield from cell.get("outputs", [])


def test_the_committed_slides_are_what_the_command_makes(made, name, path):
    assert (made / path.name).read_bytes() == path.read_bytes(), f"run: python book/classroom/slides.py {name}"


def test_small_and_loads_nothing(path, page):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 3_000_000
    assert not page.find_all(["link", "iframe", "object"])
    loaded = [tag.get(key) for tag in page.find_all(True) for key in ("src", "href", "srcset", "data") if tag.get(key)]
    styles = "\n".join(tag.text for tag in page.find_all("style"))
    loaded += re.findall(r"url\(\s*['\"]?([^'\")]*)", styles)
    assert loaded
    assert all(address.startswith(("data:", "#")) for address in loaded)
    assert "@import" not in styles
    assert all(not tag.get("src") for tag in page.find_all("script"))


def test_nothing_raw_is_left(page):
    text = page.select_one(".slides").get_text(" ")
    assert not re.search(r"\{[\w:]+\}`|`{3}|:{3}|:label:|:class:|\$|\\[a-z]+|\*\*|[\ue000\ue001]|@@|¶", text)
    assert not page.select(".slides merror")
    assert not page.select(".slides math:empty")


def test_few_words_a_slide(page):
    for number, slide in enumerate(shown(page), 1):
        pictures = len(slide.select("pre, img"))
        for part in slide.select("pre, math"):
            part.replace_with(" x " if part.name == "math" else " ")
        words = re.findall(r"\w[\w'.,/-]*", slide.get_text(" "))
        assert words or pictures, f"slide {number} is empty"
        assert len(words) <= 40, f"slide {number}: {' '.join(words)}"


def test_every_figure_is_there_with_its_text(name, page):
    expected = []
    for output in outputs(name):
        data = output.get("data", {})
        stills = re.findall(r"data:image/png;base64,([^\"]+)", "".join(data.get("text/html", "")))
        expected += [data["image/png"].replace("\n", "")] if "image/png" in data else stills
    images = page.select(".slides img")
    assert [image["src"].removeprefix("data:image/png;base64,") for image in images] == expected
    for image in images:
        width, height = struct.unpack(">II", base64.b64decode(image["src"].split(",")[1])[16:24])
        assert int(image["width"]) / int(image["height"]) == pytest.approx(width / height, rel=0.01)
        assert len(image["alt"]) > 20
        assert image.find_parent("section").p.text.strip().endswith("."), "no caption"


def test_questions_come_before_the_figure_that_answers_them(name, page):
    """In the notebook a paragraph that asks you to decide stands before a cell; so it does here."""
    source = next(BOOK.glob(f"{name}_*.ipynb")).read_text(encoding="utf-8")
    asked = len(re.findall(r"\*\*(?:Before you touch[^*]*|[Dd]ecide[^*]*)\*\*", source))
    slides = shown(page)
    kinds = [next(iter(slide.div["class"])) for slide in slides]
    assert sum("Decide first" in slide.get_text() for slide in slides) >= asked
    assert kinds[0] == "section"
    assert kinds[-1] == "exercises"
    for number, kind in enumerate(kinds):
        if kind == "answer":
            assert "question" in kinds[:number]


def test_the_chapter_is_all_there(name, page):
    """Each heading is a slide's, and each exercise is listed."""
    notebook = json.loads(next(BOOK.glob(f"{name}_*.ipynb")).read_text(encoding="utf-8"))
    text = "\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    headings = [heading for heading in re.findall(r"^#{1,3} (.*)$", text, re.MULTILINE) if "$" not in heading]
    titles = [title.get_text() for title in page.select(".slides :is(h1, h2, h3)")]
    assert set(headings) <= set(titles)
    listed = [item.get_text() for item in page.select(".exercises li")]
    assert listed == re.findall(r"^`{3,}\{exercise\} (.*)$", text, re.MULTILINE)
    equations = len(re.findall(r"^```\{math\}|^\$\$\n(?=[^$]*\$\$)", text, re.MULTILINE))
    assert len(page.select(".slides .equation")) == equations
    assert len(page.select("aside.notes")) > len(headings)


def test_in_a_browser_without_a_network(browser, path):
    metrics = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")
    browser.get(path.as_uri())
    problems = browser.execute_async_script(LOOK, 28, BODY)
    problems += [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not problems
