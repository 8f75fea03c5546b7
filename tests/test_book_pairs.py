"""A chapter's .md and .ipynb hold the same cells, and the notebook is what running it once from top to bottom gives."""

import json
import re
from pathlib import Path

import build_notebooks
import jupytext
import nbformat
import pytest

BOOK = Path(build_notebooks.__file__).parent
CHAPTERS = sorted({path.with_suffix("") for path in BOOK.glob("[0-9][0-9]_*.*") if path.suffix in (".md", ".ipynb")})
NOISE = {"execution", "collapsed", "ExecuteTime", "trusted"}  # cell metadata that running or viewing leaves behind
UNCHECKED = re.compile(r"^\s*#+\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w.])/(tmp|home|root|work|Users)/|\b[A-Z]:\\")


def cells_of(notebook):
    """(type, source, lasting metadata) of each cell."""
    return [
        (cell.cell_type, cell.source, {key: value for key, value in cell.metadata.items() if key not in NOISE})
        for cell in notebook.cells
    ]


def is_unchecked(cell):
    """Whether nbval does not compare the cell's output."""
    tags = cell.metadata.get("tags", [])
    return bool(UNCHECKED.search(cell.source)) or any(tag in ("nbval-ignore-output", "nbval-skip") for tag in tags)


def texts_of(cell):
    """The outputs of a code cell that are text, as strings."""
    for output in cell.outputs:
        for kind, content in output.get("data", {"text/plain": output.get("text", "")}).items():
            if kind.startswith("text/"):
                yield re.sub(r"base64,[\w+/=]+", "", content)


def write_chapter(path, *cells):
    """A small chapter with these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata = nbformat.from_dict({"kernelspec": build_notebooks.METADATA["kernelspec"]})
    jupytext.write(notebook, path, fmt="md:myst")
    return path


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.name)
def chapter(request):
    """Path of a chapter without its suffix."""
    return request.param


def notebook_of(chapter):
    return nbformat.read(chapter.with_suffix(".ipynb"), as_version=4)


def test_there_are_chapters():
    assert CHAPTERS
    assert [path.stem for path in build_notebooks.chapters()] == [path.name for path in CHAPTERS]


def test_both_files_hold_the_same_cells(chapter):
    text = jupytext.read(chapter.with_suffix(".md"), fmt="md:myst")
    assert cells_of(text) == cells_of(notebook_of(chapter)), f"run: python book/build_notebooks.py {chapter.name}"


def test_notebook_was_run_once_from_the_top(chapter):
    cells = [cell for cell in notebook_of(chapter).cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        assert not errors or "raises-exception" in cell.metadata.get("tags", []), cell.source


def test_notebook_is_clean(chapter):
    notebook = notebook_of(chapter)
    nbformat.validate(notebook)
    assert notebook.metadata == build_notebooks.METADATA
    assert [cell.id for cell in notebook.cells] == build_notebooks.cell_ids(notebook.cells)
    for cell in notebook.cells:
        assert not NOISE & set(cell.metadata)
        if cell.cell_type == "code":
            for text in texts_of(cell):
                assert not MACHINE_PATH.search(text), text[:500]


def test_few_outputs_go_unchecked(chapter):
    cells = [cell for cell in notebook_of(chapter).cells if cell.cell_type == "code"]
    assert 6 * sum(map(is_unchecked, cells)) < len(cells)


def test_the_list_of_exercises_is_up_to_date():
    page = (BOOK / "solutions.md").read_text("utf8")
    assert page == build_notebooks.solutions_page(), "run: python book/build_notebooks.py"
    labels = re.findall(r"\{ref\}`(ex-[\w-]+)`", page)
    written = [re.findall(r":label: (ex-[\w-]+)", path.with_suffix(".md").read_text("utf8")) for path in CHAPTERS]
    assert labels == sum(written, [])


def test_cell_ids_follow_the_source():
    new = nbformat.v4.new_code_cell
    before = build_notebooks.cell_ids([new("a"), new("b"), new("a"), nbformat.v4.new_markdown_cell("a")])
    assert len(set(before)) == 4
    after = build_notebooks.cell_ids([new("new"), new("a"), new("b"), new("a"), nbformat.v4.new_markdown_cell("a")])
    assert after[1:] == before


def test_running_twice_gives_the_same_bytes(tmp_path):
    path = write_chapter(tmp_path / "01_small.md", "x = 20\nprint(x)", "x + 1", "x")
    build_notebooks.run_chapter(path)
    first = path.with_suffix(".ipynb").read_bytes()
    build_notebooks.run_chapter(path)
    assert path.with_suffix(".ipynb").read_bytes() == first
    cells = json.loads(first)["cells"]
    assert cells[1]["outputs"][0]["data"]["text/plain"] == ["21"]
    assert cells_of(jupytext.read(path, fmt="md:myst")) == cells_of(notebook_of(path.with_suffix("")))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["01_small.ipynb", "01_small.md"]


def test_a_widget_is_run_and_left_out(tmp_path):
    widget = "import ipywidgets\nslider = ipywidgets.IntSlider(3)\nslider"
    path = write_chapter(tmp_path / "01_small.md", widget, "slider.value")
    text = path.read_text("utf8").replace("```{code-cell}\nimport", "```{code-cell}\n:tags: [live]\n\nimport")
    path.write_text(text, "utf8")
    build_notebooks.run_chapter(path)
    first, second = notebook_of(path.with_suffix("")).cells
    assert first.metadata.tags == ["live"]
    assert (first.execution_count, first.outputs) == (1, [])
    assert second.outputs[0].data["text/plain"] == "3"


def test_a_failing_chapter_leaves_its_notebook_alone(tmp_path, monkeypatch, capsys):
    path = write_chapter(tmp_path / "01_small.md", "1 / 0")
    path.with_suffix(".ipynb").write_text("old")
    monkeypatch.setattr(build_notebooks, "BOOK", tmp_path)
    monkeypatch.setattr("sys.argv", ["build_notebooks.py", "01_small"])
    with pytest.raises(SystemExit, match="(?s)01_small.md stopped.*ZeroDivisionError"):
        build_notebooks.main()
    assert path.with_suffix(".ipynb").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unknown_chapter_is_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["build_notebooks.py", "77_nowhere"])
    with pytest.raises(SystemExit, match="No chapter '77_nowhere'.*there are: "):
        build_notebooks.main()
