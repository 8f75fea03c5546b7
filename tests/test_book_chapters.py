"""The anatomy of a chapter: question, goals, predictions, words before code, equations, a moving figure, an outlook."""

import re

import build_notebooks
import jupytext
import pytest

CHAPTERS = build_notebooks.chapters()


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return request.param


@pytest.fixture
def text(chapter):
    return chapter.read_text("utf8")


def test_all_thirteen_are_there():
    assert [path.stem[:2] for path in CHAPTERS] == [f"{n:02}" for n in range(1, 14)]


def test_parts_of_a_chapter(text):
    opening = text.partition("```{code-cell}")[0]
    assert "?" in opening, "no question at the start"
    before_goals, goals, _ = text.partition("**When you are done, you can**")
    assert goals
    assert text.index("plots.show(") < text.index("\n## "), "no picture before the first section"
    assert len(re.findall(r"\*\*Decide", text)) >= 2, "fewer than two predictions"
    assert len(re.findall(r":label: eq-", text)) >= 1
    assert len(set(re.findall(r"\{eq\}`(eq-[\w-]+)`", text))) >= 1
    assert "interactive.show(" in text
    assert "## Exercises\n" in text
    last = text.partition("## What you can now do\n")[2]
    assert "{ref}`ch:" in last, "the end names no next chapter"
    assert "?" in last, "no question at the end"


def test_words_before_code(chapter):
    """Every code cell follows a cell of text, which says why; a figure's data may stand in a cell before it."""
    cells = jupytext.read(chapter, fmt="md:myst").cells
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"no words before:\n{cell.source[:200]}"


def test_lines_of_code_fit_a_page(chapter):
    for cell in jupytext.read(chapter, fmt="md:myst").cells:
        if cell.cell_type == "code":
            long = [line for line in cell.source.splitlines() if len(line) > 96]
            assert not long, long


def test_equations_have_one_home():
    homes = {}
    for path in CHAPTERS:
        for label in re.findall(r":label: (eq-[\w-]+)", path.read_text("utf8")):
            assert label not in homes, f"{label} stands in {homes[label]} and in {path.stem}"
            homes[label] = path.stem
