"""Every built page, opened from disk in a browser without a network: light and dark, on a desk and on a phone.

MIFAD_SCREENSHOTS=DIR also saves a picture of each page there.
"""

import os
from pathlib import Path

import pytest
from selenium.common.exceptions import MoveTargetOutOfBoundsException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.ui import Select

# Waits for equations and pictures, then says what a reader would see go wrong.
LOOK = r"""
const done = arguments[arguments.length - 1], width = arguments[0], problems = [], named = new Set();
(async () => {
  const formulas = document.querySelectorAll(".math").length;
  if (formulas) {
    await window.MathJax?.startup?.promise;
    const drawn = document.querySelectorAll("mjx-container").length;
    if (drawn < formulas) problems.push(`${formulas} formulas, ${drawn} drawn by MathJax`);
    document.querySelectorAll("[data-mjx-error]").forEach(e => problems.push("MathJax: " + e.dataset.mjxError));
    document.querySelectorAll('mjx-assistive-mml mtext[mathcolor="red"]').forEach(
      e => problems.push("MathJax does not know " + e.textContent));
  }
  for (const formula of document.querySelectorAll("div.math")) {
    const box = part => formula.querySelector(part)?.getBoundingClientRect();
    const [number, picture] = [box(".eqno"), box("mjx-container svg")];
    if (number && picture?.right > number.left) problems.push("runs under its number: " + formula.id);
  }
  for (const image of document.images) {
    image.loading = "eager";
    await image.decode().catch(() => problems.push("broken image " + image.currentSrc));
  }
  for (const { name } of performance.getEntriesByType("resource"))
    if (!/^(file|data|blob):/.test(name)) problems.push("fetched from the network: " + name);
  const page = document.documentElement.scrollWidth;
  if (page > width) problems.push(`scrolls sideways: ${page} px in a window of ${width}`);
  for (const element of document.querySelectorAll("article *")) {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height || box.right <= width + 1 || element.closest("mjx-assistive-mml")) continue;
    let fine = false; // inside a box that scrolls, or in an element already named
    for (let up = element.parentElement; up && !fine; up = up.parentElement)
      fine = named.has(up) || /auto|scroll/.test(getComputedStyle(up).overflowX);
    const what = element.textContent.trim() || element.outerHTML;
    if (!fine) problems.push(`cut off or sticking out: ${element.localName}: ${what.slice(0, 120)}`);
    named.add(element);
  }
  for (const pre of document.querySelectorAll("div.highlight-bash pre")) {
    if (width > 600 && pre.scrollWidth > pre.clientWidth) problems.push("beyond the edge: " + pre.textContent);
    const texts = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT), word = document.createRange();
    while (texts.nextNode())
      for (const found of texts.currentNode.data.matchAll(/\S*[-\/]\S*/g)) {
        word.setStart(texts.currentNode, found.index);
        word.setEnd(texts.currentNode, found.index + found[0].length);
        const lines = new Set([...word.getClientRects()].map(box => Math.round(box.top)));
        if (lines.size > 1) problems.push("a word of a command broken in two: " + found[0]);
      }
  }
  done({ problems, theme: document.documentElement.dataset.theme });
})().catch(error => done({ problems: ["" + error] }));
"""


def set_window(browser, width, height, theme):
    """Give the next page a window of `width` x `height` CSS pixels and a reader who prefers `theme`."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    preference = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preference)


def console_errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_look_finds_a_bad_page(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        """<html data-theme="light"><body><article><p class="math">x</p><img src="none.png" alt="none">
        <div class="highlight-bash"><pre style="white-space: pre-wrap; width: 9ch">train --no-bf16</pre></div>
        <div style="overflow: hidden"><p style="width: 900px">cut</p></div><p style="width: 950px">wide</p></article>
        <script src="https://cdn.example.org/lib.js"></script><script>undefined.Queue</script></body></html>"""
    )
    set_window(browser, 390, 844, "light")
    browser.get(page.as_uri())
    seen = " | ".join(browser.execute_async_script(LOOK, 390)["problems"])
    problems = ["1 formulas, 0 drawn", "broken image", "fetched from the network", "scrolls sideways", "cut off"]
    for problem in problems:
        assert problem in seen
    assert "broken in two: --no-bf16" in seen
    errors = " | ".join(console_errors(browser))
    for error in ["none.png", "lib.js", "Queue"]:
        assert error in errors


# Each width and each theme once: what is cut off or missing does not depend on both together.
@pytest.mark.parametrize(("width", "height", "theme"), [(1280, 900, "light"), (390, 844, "dark")])
def test_pages_are_whole_offline(browser, html, width, height, theme):
    problems = []
    set_window(browser, width, height, theme)
    for page in [html / "search.html", html / "genindex.html", *sorted(html.glob("book/*.html"))]:
        name = page.relative_to(html).as_posix()
        browser.get(page.as_uri())
        look = browser.execute_async_script(LOOK, width)
        problems += [f"{name}: {problem}" for problem in look["problems"] + console_errors(browser)]
        if look["theme"] != theme:
            problems.append(f"{name}: shown in {look['theme']}")
        if folder := os.environ.get("MIFAD_SCREENSHOTS"):
            shot = Path(folder) / f"{name.replace('/', '-').removesuffix('.html')}-{width}-{theme}.png"
            shot.parent.mkdir(parents=True, exist_ok=True)
            shot.write_bytes(full_page(browser, width))
    assert not problems, "\n".join(problems)


# The figure of one interactive block as text: its drawings, its pixels, its numbers; without the controls.
SNAPSHOT = """
const block = arguments[0];
return [...block.querySelectorAll(".panels svg, .panels canvas, .readouts output, .note")].map(
  e => e.localName == "canvas" ? e.toDataURL() : e.innerHTML).join("|");
"""


def by_keyboard(browser, control):
    """Ways to move a control with keys, to be tried in turn."""
    if control.tag_name == "button":
        return [lambda: control.send_keys(Keys.SPACE)]
    if control.tag_name == "select":
        return [lambda key=key: control.send_keys(key) for key in (Keys.ARROW_DOWN, Keys.ARROW_UP)]
    keys = (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP)
    return [lambda key=key: control.send_keys(key) for key in keys]


def by_mouse(browser, control):
    """Ways to move a control with the mouse, to be tried in turn."""
    act = ActionChains(browser, duration=50)
    if control.tag_name == "button":
        return [lambda: act.click(control).perform()]
    if control.tag_name == "select":  # the list that opens is the system's: choose as the driver does
        chosen = Select(control)
        last = len(chosen.options) - 1
        return [lambda: chosen.select_by_index(last), lambda: chosen.select_by_index(0)]
    if control.tag_name == "input":
        far = 0.3 * control.size["width"]
        return [lambda: act.move_to_element_with_offset(control, far, 0).click().perform()]
    return [lambda d=d: act.drag_and_drop_by_offset(control, *d).perform() for d in ((30, 20), (-30, -20), (30, -20))]


def dead_controls(browser, block, ways):
    """What is wrong with the controls of an interactive figure: they change nothing, or lose the focus."""
    for control in block.find_elements("css selector", "input, select, button, .handle"):
        name = control.get_attribute("aria-label") or control.text
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", control)
        before = browser.execute_script(SNAPSHOT, block)
        for move in ways(browser, control):
            try:
                move()
            except MoveTargetOutOfBoundsException:  # this way leads out of the window
                ActionChains(browser).reset_actions()
                continue
            if browser.execute_script(SNAPSHOT, block) != before:
                break
        else:
            yield f"moving {name} changes nothing"
        if ways is by_keyboard and browser.execute_script("return document.activeElement") != control:
            yield f"{name} loses the focus when it is moved"


@pytest.mark.parametrize(("width", "height", "ways"), [(1280, 900, by_keyboard), (390, 844, by_mouse)])
def test_figures_move(browser, html, ways, width, height):
    problems, seen = [], 0
    set_window(browser, width, height, "light")
    for page in sorted(html.glob("book/*.html")):
        browser.get(page.as_uri())
        for block in browser.find_elements("css selector", ".mifad-figure"):
            name = f"{page.stem}, {block.get_attribute('id')}"
            seen += 1
            if "live" not in block.get_attribute("class").split():
                problems.append(f"{name}: its script did not draw")
            if not block.find_elements("css selector", "input, select, button, .handle"):
                problems.append(f"{name}: nothing to move")
            problems += [f"{name}: {problem}" for problem in dead_controls(browser, block, ways)]
        problems += [f"{page.stem}: {error}" for error in console_errors(browser)]
    assert not problems, "\n".join(problems)
    assert seen >= 12


def test_figures_stand_still_without_scripts(browser, html):
    problems = []
    set_window(browser, 390, 844, "light")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        for page in sorted(html.glob("book/*.html")):
            browser.get(page.as_uri())
            for block in browser.find_elements("css selector", ".mifad-figure"):
                picture = block.find_element("css selector", "img.still")
                if not picture.is_displayed() or picture.size["width"] < 200:
                    problems.append(f"{page.stem}: {block.get_attribute('id')} shows no picture")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert not problems, "\n".join(problems)


def test_a_dead_control_is_found(browser, tmp_path):
    page = tmp_path / "dead.html"
    page.write_text(
        """<div class="mifad-figure live"><input type="range" aria-label="dead" min="0" max="9" value="4">
        <input type="range" aria-label="alive" min="0" max="9" value="4" oninput="document.querySelector(
        '.panels svg').textContent = this.value"><div class="panels"><svg></svg></div></div>"""
    )
    set_window(browser, 1280, 900, "light")
    browser.get(page.as_uri())
    block = browser.find_element("css selector", ".mifad-figure")
    for ways in (by_keyboard, by_mouse):
        assert list(dead_controls(browser, block, ways)) == ["moving dead changes nothing"]


def test_search_answers_offline(browser, html):
    set_window(browser, 1280, 900, "light")
    browser.get((html / "search.html").as_uri() + "?q=mifad")
    hits = browser.execute_async_script(
        """const done = arguments[0], started = Date.now();
        (function wait() {
          const hits = document.querySelectorAll("#search-results li a").length;
          hits || Date.now() - started > 10000 ? setTimeout(() => done(hits), 500) : setTimeout(wait, 50);
        })()"""
    )
    assert hits
    assert not console_errors(browser)


def full_page(browser, width):
    """PNG bytes of the whole page, from top to bottom."""
    import base64

    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], 12000), "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(shot["data"])
