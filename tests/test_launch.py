"""The files that start the book elsewhere ask for what requirements.txt installs, and for files that exist."""

import re

import pytest


@pytest.fixture
def binder(root):
    lines = (root / ".binder/requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_binder_installs_what_the_tests_ran(root, binder):
    """The tests' own environment, JupyterLab, and an index with smaller builds of the same torch: nothing else."""
    index, rest, lab = binder
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert re.fullmatch(r"-r (\S+)", rest)
    assert (root / ".binder" / rest.split()[1]).resolve() == (root / "requirements.txt").resolve()
    assert lab == "jupyterlab"
    assert "\n-e .[" in (root / "requirements.txt").read_text(), "relative to the root, where repo2docker runs pip"


def test_binder_python_is_one_that_the_package_takes(root):
    version = re.fullmatch(r"python-(\d+)\.(\d+)\n", (root / ".binder/runtime.txt").read_text())
    lowest = re.search(r'requires-python = ">=(\d+)\.(\d+)"', (root / "pyproject.toml").read_text())
    assert tuple(map(int, version.groups())) >= tuple(map(int, lowest.groups()))


def test_the_image_copies_and_installs_what_is_there(root):
    recipe = (root / "book/classroom/Dockerfile").read_text()
    steps = [line for line in recipe.splitlines() if re.match("[A-Z]", line)]
    assert [step.split()[0] for step in steps] == ["FROM", "ARG", "COPY", "WORKDIR", "RUN"]
    for file in re.findall(r"-r (\S+\.txt)", recipe):
        assert (root / file).is_file(), file
    ignored = (root / ".dockerignore").read_text().split()
    assert not set(ignored) & {"book", "mifad_lite", "requirements.txt", "pyproject.toml"}
