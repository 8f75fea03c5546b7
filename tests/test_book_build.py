"""The set-up installs pinned versions, and the book builds without a warning from what is committed."""

import re
import tomllib

import yaml
from bs4 import BeautifulSoup
from packaging.requirements import Requirement
from sphinx.util.matching import Matcher


def test_every_direct_dependency_is_pinned(root):
    project = tomllib.loads((root / "pyproject.toml").read_text("utf8"))["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    lines = (root / "requirements.txt").read_text("utf8").splitlines()
    pins = dict(line.split("==") for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line))
    for requirement in map(Requirement, wanted):
        if requirement.name == project["name"]:  # an extra that brings another one along
            continue
        assert requirement.specifier.contains(pins[requirement.name]), f"{requirement} against {pins[requirement.name]}"


def test_the_book_builds_without_warnings(book_build):
    process, html = book_build
    assert process.returncode == 0, process.stdout[-8000:]
    assert "WARNING" not in process.stdout


def test_every_page_of_the_contents_is_built(root, html):
    contents = yaml.safe_load((root / "_toc.yml").read_text("utf8"))
    files = [contents["root"]] + [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    pages = {str(path.relative_to(html)) for path in (html / "book").rglob("*.html")}
    assert pages == {re.sub(r"(\.md|\.ipynb)?$", ".html", file, count=1) for file in files}


def test_one_address_stands_in_the_configuration(root):
    config = yaml.safe_load((root / "_config.yml").read_text("utf8"))
    owner, name = re.fullmatch(r"https://github\.com/([\w-]+)/([\w.-]+)", config["repository"]["url"]).groups()
    assert config["html"]["baseurl"] == f"https://{owner}.github.io/{name}/"


def test_a_virtual_environment_in_the_folder_is_left_out(root):
    """The README's commands put one there; its packages bring pages of their own."""
    config = yaml.safe_load((root / "_config.yml").read_text("utf8"))
    excluded = Matcher(config["exclude_patterns"])
    assert excluded(".venv")
    assert not excluded("book")


def test_a_percent_sign_stays_with_its_number(html):
    """In prose and tables, not in code: what is copied from there has an ordinary space."""
    page = BeautifulSoup((html / "book/reproduce.html").read_text("utf8"), "html.parser").article
    code = [c.get_text() for c in page.find_all(["code", "pre"])]
    assert not any("\N{NO-BREAK SPACE}%" in text for text in code)
    for part in page.find_all(["code", "pre", "script"]):
        part.decompose()
    text = page.get_text()
    assert len(re.findall(r"\d\N{NO-BREAK SPACE}%", text)) > 20
    assert not re.search(r"\d %", text)
