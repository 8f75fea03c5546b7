"""What the hidden tests of the problem sets share, and what nbgrader needs to grade safely.

`course.py new` copies this file into the course's folder. It is never part of what students get.
"""

import hashlib
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LONGEST = 10_000  # characters that one output of a graded cell keeps


def draw(text: str) -> int:
    """32 bits that follow from a text, the same on every machine. Students' notebooks compute their seed alike."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def rng(label: str) -> np.random.Generator:
    """Random numbers that follow from the course's secret, so that nobody can type in what a hidden test expects."""
    secret = (HERE / "secret.txt").read_text("utf8").strip()
    return np.random.default_rng(draw(f"{secret}/{label}"))


def student() -> str:
    """Whose notebook is being graded; `course.py grade` says so, whatever the notebook claims."""
    return os.environ.get("MIFAD_STUDENT", "solution")


def seed(assignment: str, who: str | None = None) -> int:
    """The seed that a student's data of an assignment are drawn with."""
    return draw(f"{assignment}/{who or student()}")


def own_number(assignment: str, value: float, formula: Callable[[int], float], tolerance: float = 1e-3) -> None:
    """Assert that `value` is formula(seed) for this student. A classmate's number is named as such."""
    value = float(value)

    def fits(who: str) -> bool:
        expected = float(formula(seed(assignment, who)))
        return abs(value - expected) <= tolerance * max(1.0, abs(expected))

    if fits(student()):
        return
    others = json.loads(os.environ.get("MIFAD_CLASS", "[]"))
    owner = next((who for who in others if who != student() and fits(who)), None)
    whose = f"it is the number of {owner}" if owner else "it does not follow from your seed"
    raise AssertionError(f"the number {value:.6g} is not yours: {whose}")


def free_after_errors() -> None:
    """In a kernel: a cell that stops gives its memory back. IPython keeps the traceback, and with it what it held."""
    from IPython import get_ipython

    def free(result):
        if result.error_in_exec is not None:
            traceback.clear_frames(result.error_in_exec.__traceback__)

    get_ipython().events.register("post_run_cell", free)


def shorten(notebook):
    """Cut every output of a graded notebook to LONGEST characters, in place."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output and len(output.text) > LONGEST:
                output.text = output.text[:LONGEST] + f"\n... {len(output.text) - LONGEST:,} more characters cut\n"
            for kind, content in list(output.get("data", {}).items()):
                if kind.startswith("text/") and len(content) > LONGEST:
                    output.data[kind] = content[:LONGEST] + " ... cut"
            if "evalue" in output:
                output.evalue = output.evalue[:LONGEST]
                output.traceback = [line[:LONGEST] for line in output.traceback]
    return notebook
