"""Every link, anchor and asset of the built pages: all there, all local, all pictures described, no page too heavy."""

import re
from functools import cache
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

MAX_PAGE = 3_000_000  # bytes: the page and its pictures
ASSETS = {"object": "data"} | dict.fromkeys(["script", "img", "iframe", "source", "video", "audio"], "src")


@cache
def parse(path):
    return BeautifulSoup(path.read_text("utf8"), "html.parser")


@cache
def anchors(path):
    return {"", *(tag["id"] for tag in parse(path).find_all(id=True))}


def references(soup):
    """(tag name, address, whether the page needs it to show) for everything that a page points to."""
    for tag in soup.find_all(True):
        if tag.name == "a" and tag.get("href"):
            yield tag.name, tag["href"], False
        elif tag.name == "link":
            yield tag.name, tag["href"], "canonical" not in tag["rel"]
        elif tag.name == "meta" and tag.get("http-equiv", "").lower() == "refresh":
            yield tag.name, tag["content"].split("url=")[-1], True
        elif tag.get(ASSETS.get(tag.name, "-")):
            yield tag.name, tag[ASSETS[tag.name]], True


def find_problems(page, root):
    """One line for everything wrong with the references of `page` (a file in the folder `root`)."""
    for tag, address, needed in references(parse(page)):
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") or parts.netloc:
            if needed:
                yield f"<{tag}> loads {address} from the network"
            continue
        if parts.scheme:  # data:, mailto:, javascript:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.is_relative_to(root) or not target.is_file():
            yield f"<{tag}> {address}: no such file"
        elif target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
            yield f"<{tag}> {address}: no such anchor"


def find_undescribed(page):
    """The pictures of `page` without a text for those who cannot see them (Sphinx falls back on the file's name)."""
    for image in parse(page)("img"):
        alt = image.get("alt", "").strip()
        if not alt or re.search(r"\.(png|jpe?g|svg|gif)$", alt):
            yield f"no alternative text: {str(image)[:150]}"


@pytest.fixture(scope="module")
def pages(html):
    return [page for page in sorted(html.rglob("*.html")) if "_static" not in page.parts]


def test_the_checks_find_what_is_wrong(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        """<a href="gone.html">x</a> <a href="#gone">x</a> <a href="bad.html#here">x</a> <a href="../../etc">x</a>
        <a href="https://example.org">fine</a> <i id="here"></i> <script src="https://cdn.example.org/x.js"></script>
        <link rel="stylesheet" href="//example.org/x.css"> <img src="gone.png" alt="gone"> <img src="data:," alt=" ">
        <img src="data:," alt="_images/abc.png">"""
    )
    problems = list(find_problems(page, tmp_path))
    assert [problem.split()[1] for problem in problems] == [
        "gone.html:", "#gone:", "../../etc:", "loads", "loads", "gone.png:"
    ]  # fmt: skip
    assert len(list(find_undescribed(page))) == 2


def test_links_anchors_and_assets(pages, html):
    problems = [f"{page.relative_to(html)}: {problem}" for page in pages for problem in find_problems(page, html)]
    assert not problems, "\n".join(problems)


def test_pictures_have_alternative_text(pages, html):
    problems = [f"{page.relative_to(html)}: {problem}" for page in pages for problem in find_undescribed(page)]
    assert not problems, "\n".join(problems)


def test_style_sheets_load_local_files(html):
    problems = []
    for sheet in html.rglob("*.css"):
        for address in re.findall(r"""url\(\s*["']?([^"')]+)""", sheet.read_text("utf8")):
            local = address.startswith(("data:", "#")) or (sheet.parent / urlsplit(address).path).is_file()
            if not local:
                problems.append(f"{sheet.relative_to(html)}: {address[:100]}")
    assert not problems, "\n".join(problems)


def test_no_page_is_too_heavy(pages, html):
    for page in pages:
        pictures = {(page.parent / image["src"]).resolve() for image in parse(page)("img") if "_images" in image["src"]}
        weight = page.stat().st_size + sum(picture.stat().st_size for picture in pictures)
        assert weight <= MAX_PAGE, f"{page.relative_to(html)}: {weight:,} bytes with its pictures"
