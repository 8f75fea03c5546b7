"""The chapters' set-up cell as Colab runs it: an environment with Colab's packages, a wheel of this tree."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import build_notebooks
import jupytext
import pytest
import yaml
from packaging.requirements import Requirement

CHAPTERS = build_notebooks.chapters()
ON_COLAB = ("torch", "numpy", "pandas", "pillow", "safetensors", "tqdm", "matplotlib", "seaborn", "scipy")
ON_COLAB += ("ipywidgets", "ipykernel")
PACKAGED = ("mifad_lite/", "book/results/", "pyproject", "README", "LICENSE")


def first_cell(path):
    return next(cell.source for cell in jupytext.read(path, fmt="md:myst").cells if cell.cell_type == "code")


def install_part(path):
    """The set-up cell up to the line that runs pip."""
    head, found, _ = first_cell(path).partition("subprocess.run(pip, check=True)\n")
    assert found, f"{path.name} does not begin with the set-up cell"
    return head + found


def with_dependencies(names):
    """The installed distributions of these names and of all that they need, by name."""
    found, todo = {}, list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    """A wheel of the package, built from a copy of the tree's tracked files so that no stale build folder leaks in."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout.splitlines()
    for file in files:
        if file.startswith(PACKAGED) and (root / file).is_file():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            (copy / file).write_bytes((root / file).read_bytes())
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", out, copy], check=True)
    return next(out.glob("mifad_lite-*.whl"))


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """Python of a fresh environment in which the packages that Colab has, and no others, can be imported."""
    env, shared = tmp_path_factory.mktemp("colab"), tmp_path_factory.mktemp("packages")
    subprocess.run([sys.executable, "-m", "venv", env], check=True)
    python = env / "bin" / "python"
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "setuptools"], check=True)  # an old one of venv's own
    for distribution in with_dependencies(ON_COLAB).values():
        for top in {Path(file).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (shared / top).exists():
                (shared / top).symlink_to(distribution.locate_file(top))
    own = next(env.glob("lib/python*/site-packages"))
    (own / "colab.pth").write_text(str(shared))
    return python, own


def run(python, code, cwd):
    offline = os.environ | {"PIP_NO_INDEX": "1"}  # what Colab has is enough: nothing may be fetched
    return subprocess.run([python, "-c", code], cwd=cwd, env=offline, capture_output=True, text=True)


def test_every_chapter_sets_up_alike(root):
    parts = {path.name: install_part(path) for path in CHAPTERS}
    assert len(set(parts.values())) == 1, "the set-up cells differ: " + ", ".join(parts)
    address = yaml.safe_load((root / "_config.yml").read_text("utf8"))["repository"]["url"]
    assert f'"git+{address}"' in next(iter(parts.values()))


def test_colab_links_name_their_chapter(root):
    address = yaml.safe_load((root / "_config.yml").read_text("utf8"))["repository"]["url"].removeprefix("https://github.com/")
    for path in CHAPTERS:
        link = f"https://colab.research.google.com/github/{address}/blob/main/book/{path.stem}.ipynb"
        assert f"[Open this chapter in Colab]({link})" in path.read_text("utf8"), path.name


def test_set_up_on_colab(colab, wheel, tmp_path):
    """The cell installs the package and nothing else; then every chapter's imports work, away from the checkout."""
    python, own = colab
    before = {path.name for path in own.iterdir()}
    missing = run(python, "import mifad_lite", tmp_path)
    assert "No module named 'mifad_lite'" in missing.stderr

    cell = install_part(CHAPTERS[0])
    line = re.search(r"^ *source = .*$", cell, re.MULTILINE)[0]
    cell = cell.replace(line, f"    source = {str(wheel)!r}")
    installed = run(python, cell, tmp_path)
    assert installed.returncode == 0, installed.stderr
    new = {path.name for path in own.iterdir()} - before
    assert new == {"mifad_lite", next(name for name in new if name.startswith("mifad_lite-"))}, "pip brought more along"

    for path in CHAPTERS:
        again = run(python, first_cell(path) + "\nprint(sys.modules['mifad_lite'].__file__)", tmp_path)
        assert again.returncode == 0, f"{path.name}: {again.stderr}"
        assert str(own) in again.stdout, "the package came from somewhere else"
    shipped = "from mifad_lite import checkpoint as c, records, interactive, exercises\n"
    shipped += "c.load_network(); c.load_network(c.DRAWN); records.read_record('explorer')\n"
    shipped += "assert (interactive.JS / 'base.js').is_file() and exercises.CHECKS"
    assert run(python, shipped, tmp_path).returncode == 0
