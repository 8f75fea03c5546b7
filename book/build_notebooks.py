"""Run the chapters: `python book/build_notebooks.py [NAME ...]` executes book/NAME.md and writes NAME.ipynb beside it.

People edit and review the .md (jupytext MyST); the .ipynb holds the same cells with their outputs, for Colab, nbval and
the book. Without names every paired chapter is run. Cell ids follow from the source, times and versions are left
out, so that the same run gives the same file. A chapter that fails leaves its old .ipynb as it was. A cell tagged
`live` makes a widget for a running kernel: it is run, and its output, dead in a page, is left out. The list of all
exercises, solutions.md, is written along.
"""

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

BOOK = Path(__file__).parent
TIMEOUT = 120  # seconds for one cell, as for nbval
METADATA = {
    "jupytext": {"formats": "ipynb,md:myst"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


def chapters():
    """Every page in the folder that is paired with a notebook: its jupytext header says so."""
    return sorted(path for path in BOOK.glob("*.md") if path.read_text("utf8").startswith("---\njupytext:"))


def cell_ids(cells):
    """One id for each cell: eight hex digits of a hash over its type, source and how often that came before."""
    seen = Counter()
    ids = []
    for cell in cells:
        key = (cell.cell_type, cell.source)
        ids.append(hashlib.sha256(repr((*key, seen[key])).encode()).hexdigest()[:8])
        seen[key] += 1
    return ids


def read_chapter(path):
    """The notebook that `path` (an .md file) describes, without outputs."""
    notebook = jupytext.read(path, fmt="md:myst")
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell, id_ in zip(notebook.cells, cell_ids(notebook.cells), strict=True):
        cell.id = id_
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run_chapter(path):
    """Execute the chapter in its own folder and replace its notebook once all went well."""
    notebook = read_chapter(path)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "live" in cell.metadata.get("tags", []):
            cell.outputs = []
    notebook.metadata["language_info"] = METADATA["language_info"]  # the kernel's answer names its exact version
    with tempfile.NamedTemporaryFile("w", encoding="utf8", dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            nbformat.write(notebook, file)
            file.close()
            os.replace(file.name, path.with_suffix(".ipynb"))
        except BaseException:
            os.unlink(file.name)
            raise


SOLUTIONS = """(ch:solutions)=
# Exercises and solutions

Every exercise of the book. Its solution is folded below it, and the tests run it with the check that your answer gets.
Try first. A check names your mistake, and a solution cannot do that.
"""


def solutions_page():
    """The text of solutions.md: every exercise with its level, by chapter."""
    text = SOLUTIONS
    for path in chapters():
        page = path.read_text("utf8")
        chapter = re.search(r"^# (.+)$", page, re.MULTILINE)[1]
        text += f"\n## {chapter}\n\n| exercise | | level |\n|---|---|---|\n"
        for title, name, level in re.findall(r"\{exercise\} ([^\n]+)\n:label: (\S+)\n\*\*([\w-]+)\.\*\*", page):
            text += f"| {title} | {{ref}}`{name}` | {level.lower()} |\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a chapter, as in 09_training (default: all)")
    paths = {path.stem: path for path in chapters()}
    names = [Path(name).stem for name in parser.parse_args().names] or list(paths)
    for name in names:
        if name not in paths:
            sys.exit(f"No chapter {name!r} with a jupytext header in {BOOK}; there are: {', '.join(paths) or 'none'}.")
    for name in names:
        print(f"{name} ...", flush=True)
        try:
            run_chapter(paths[name])
        except (CellExecutionError, CellTimeoutError) as error:
            sys.exit(f"{paths[name]} stopped and its notebook was left as it was:\n{error}")
    (BOOK / "solutions.md").write_text(solutions_page(), "utf8")


if __name__ == "__main__":
    main()
