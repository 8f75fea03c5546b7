"""The classroom: from a problem set's source to marks, through nbgrader as a teacher would run it.

These tests need book/classroom/requirements.txt. Without it they are skipped, unless MIFAD_REQUIRE_CLASSROOM is set, as
.ci/run does.
"""

import importlib
import os
import re
import sys
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import pytest

if not os.environ.get("MIFAD_REQUIRE_CLASSROOM"):
    pytest.importorskip("nbgrader")

from classroom import course

OPTIONS = Namespace(seconds=240, cell_seconds=60, gigabytes=4)
SETS = sorted(course.SETS)

MINI = '''---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
---

# Mini

```{code-cell} ipython3
import math
```

```{code-cell} ipython3
:tags: [answer=student]

STUDENT = ""  # your id
### BEGIN SOLUTION
STUDENT = "solution"
### END SOLUTION
```

```{code-cell} ipython3
import hashlib

SEED = int(hashlib.sha256(f"ps9_mini/{STUDENT}".encode()).hexdigest()[:8], 16)
```

```{code-cell} ipython3
:tags: [answer=square]

def square(x):
    """The square of a number."""
    ### BEGIN SOLUTION
    return x * x
    ### END SOLUTION
```

```{code-cell} ipython3
:tags: [test=square.a/2]

assert square(2) == 4, "two squared is four"
```

```{code-cell} ipython3
:tags: [test=square.b/1]

assert square(-1) == 1, "a square is positive"
### BEGIN HIDDEN TESTS
import grading

x = grading.rng("square").normal()
assert abs(square(x) - x**2) < 1e-9
### END HIDDEN TESTS
```

```{code-cell} ipython3
:tags: [answer=number]

number = ...
### BEGIN SOLUTION
number = math.sqrt(SEED)
### END SOLUTION
```

```{code-cell} ipython3
:tags: [test=number/2]

assert math.isfinite(number), "a number is asked for"
### BEGIN HIDDEN TESTS
import grading

grading.own_number("ps9_mini", number, math.sqrt)
### END HIDDEN TESTS
```

Why is a square positive?

+++ {"tags": ["written=why/4"]}

### BEGIN SOLUTION
Both factors have the same sign.
### END SOLUTION
'''


def id_of(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def hand_in(folder, name, student, start="release", drop=(), sign=True, claim=None, **answers):
    """Write a notebook to the inbox: the release or the source, with some answers replaced and some cells dropped."""
    notebook = nbformat.read(folder / start / name / f"{name}.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if id_of(cell) not in drop]
    if sign:
        answers["student"] = f'STUDENT = "{claim or student}"'
    for cell in notebook.cells:
        if id_of(cell).startswith("answer-") and (key := id_of(cell)[7:]) in answers:
            cell.source = answers[key]
    nbformat.write(notebook, folder / "inbox" / f"{name}_{student}.ipynb")


def points(folder):
    """{student: {exercise: points}} of the only set in the folder."""
    table = course.marks(folder)
    return {s: dict(zip(part.exercise, part.points, strict=True)) for s, part in table.groupby("student")}


def points_of(folder, exercise):
    table = course.marks(folder)
    return table[table.exercise == exercise].points


# --- sources and releases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_whole(name):
    notebook = course.source_notebook(course.SETS[name])
    graded = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade")]
    assert sum(c.metadata.nbgrader.points for c in graded) == 20
    answers = {id_of(c)[7:] for c in notebook.cells if id_of(c).startswith("answer-")}
    tested = {course.exercise_of(id_of(c)) for c in graded if c.cell_type == "code"}
    assert tested == answers - {"student"}, "every answer has a test and every test an answer"
    assert len(tested) >= 4
    text = "\n".join(c.source for c in notebook.cells)
    assert text.count("grading.own_number(") >= 2, "two numbers depend on the student"
    for cell in notebook.cells:
        if cell.cell_type == "code" and id_of(cell).startswith("test-"):
            last = cell.source.strip().splitlines()[-1]
            assert last.startswith(("assert", " ", "###", "grading.own_number", ")", "for ")), last
    written = [i for i, c in enumerate(notebook.cells) if id_of(c).startswith("written-")]
    assert written, "a question for words"
    for i in written:
        rubric = notebook.cells[i - 1].source
        earned = [int(n) for n in re.findall(r"^\|.*\|\s*(\d+)\s*\|$", rubric, re.MULTILINE)]
        assert sum(earned) == notebook.cells[i].metadata.nbgrader.points, rubric


def test_what_a_source_may_not_be(tmp_path):
    for old, new, reason in (
        ("[test=number/2]", "[test=number]", "use one of answer=NAME"),
        ("[answer=number]", "[answer=number, more]", "use one of answer=NAME"),
        ("[answer=number]", "[answer=square]", "two cells have the same tag"),
    ):
        path = tmp_path / "ps9_mini.md"
        path.write_text(MINI.replace(old, new))
        with pytest.raises(course.CourseError, match=reason):
            course.source_notebook(path)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """A course of one small set that needs no torch, so that a notebook is graded in seconds."""
    folder = tmp_path_factory.mktemp("mini")
    (folder / "ps9_mini.md").write_text(MINI)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "SETS", {"ps9_mini": folder / "ps9_mini.md"})
        course.new_course(folder / "course", "a secret")
    return folder / "course"


def test_nothing_is_overwritten(mini, capsys):
    assert course.main(["new", str(mini)]) == 1
    assert "already holds a course" in capsys.readouterr().err
    assert course.main(["new", str(mini / "other"), "--sets", "ps8"]) == 1
    assert "there is no problem set 'ps8'" in capsys.readouterr().err
    assert not (mini / "other").exists()
    assert course.main(["grade", str(mini / "other")]) == 1
    assert "holds no course" in capsys.readouterr().err


def test_marks_of_no_course_leave_nothing_behind(tmp_path, capsys):
    """A stray gradebook stood in the way of `new`."""
    for folder in (tmp_path, tmp_path / "none"):
        assert course.main(["marks", str(folder)]) == 1
        assert capsys.readouterr().err.startswith(f"course marks: {folder} holds no course")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="a process is forked on Linux alone")
def test_a_limit_below_what_is_held_is_told(mini, tmp_path):
    with pytest.raises(course.CourseError, match="more than the 0.001 GB that a notebook may use"):
        course.start_nbgrader(mini, ["--version"], tmp_path / "log.txt", gigabytes=0.001)
    assert not (tmp_path / "log.txt").exists()


def test_the_release_hides_what_it_should(mini):
    text = (mini / "release/ps9_mini/ps9_mini.ipynb").read_text()
    for hidden in ("SOLUTION", "HIDDEN", "grading", "x * x", "same sign", "a secret"):
        assert hidden not in text
    for shown in ("no answer yet", "two squared is four", "a square is positive", "The square of a number", "hashlib"):
        assert shown in text
    assert sorted(p.name for p in (mini / "release").rglob("*.*")) == ["ps9_mini.ipynb"]


# --- four hand-ins and worse -----------------------------------------------------------------------------------------

ALL = {"square": 3.0, "number": 2.0, "why": 0.0}  # the words wait for a person
RIGHT = {"square": "def square(x):\n    return x * x", "number": "number = math.sqrt(SEED)"}
HOSTILE = {
    "loops": {"square": "while True:\n    pass"},
    "cannot.be.stopped": {"square": "while True:\n    try:\n        while True: pass\n    except BaseException: pass"},
    "eats.memory": {"square": "def eat(x):\n    while True:\n        x.append(bytearray(50_000_000))\neat([])"},
    "floods": {"square": RIGHT["square"] + '\nprint("x" * 5_000_000)\nfor i in range(20_000):\n    print("line", i)'},
    "leaves": {"square": "import os\nos._exit(3)"},
    "cheats": {"square": "import grading, pathlib\npathlib.Path(grading.__file__).write_text('raise SystemExit')"},
    "copies": {"number": "number = math.sqrt(int(hashlib.sha256(b'ps9_mini/right').hexdigest()[:8], 16))"},
}
MARKS = {
    "right": ALL,
    "half": ALL | {"number": 0.0},
    "broken": {"square": 2.0, "number": 0.0, "why": 0.0},
    "untouched": dict.fromkeys(ALL, 0.0),
    "deleted": ALL | {"number": 0.0},
    "letter": dict.fromkeys(ALL, 0.0),
    "someone": ALL | {"number": 0.0},
    "loops": ALL | {"square": 0.0},
    "eats.memory": ALL | {"square": 0.0},
    "floods": ALL,
    "copies": ALL | {"number": 0.0},
    "leaves": dict.fromkeys(ALL, 0.0),
    "cheats": dict.fromkeys(ALL, 0.0),
}


@pytest.fixture(scope="module")
def graded(mini):
    hand_in(mini, "ps9_mini", "right", **RIGHT)
    hand_in(mini, "ps9_mini", "half", square=RIGHT["square"])
    hand_in(mini, "ps9_mini", "broken", square="def square(x):\n    return x + x", number="number = ]")
    hand_in(mini, "ps9_mini", "untouched", sign=False)
    hand_in(mini, "ps9_mini", "deleted", drop=("given-1", "test-square-b", "answer-number", "test-number"), **RIGHT)
    hand_in(mini, "ps9_mini", "someone", claim="right", **RIGHT)
    (mini / "inbox/ps9_mini_letter.ipynb").write_text("Dear teacher, my notebook is broken.")
    for student, answers in HOSTILE.items():
        hand_in(mini, "ps9_mini", student, **RIGHT | answers)
    before = {p: p.read_bytes() for p in mini.rglob("*") if p.is_file() and p.parts[-3] in ("source", "release")}
    before |= {p: p.read_bytes() for p in (mini / "inbox").iterdir()} | {(p := mini / "grading.py"): p.read_bytes()}
    began = time.monotonic()
    options = Namespace(seconds=60, cell_seconds=6, gigabytes=1.5)
    status = course.grade(mini, options).set_index("student")
    print(f"{len(status)} notebooks graded in {time.monotonic() - began:.0f} s")
    assert {p: p.read_bytes() for p in before} == before
    return status


@pytest.mark.parametrize("student", MARKS)
def test_marks(graded, mini, student):
    assert points(mini)[student] == MARKS[student]


def test_every_hand_in_has_a_status(graded):
    assert set(graded.index) == set(MARKS) | set(HOSTILE)
    say = graded.status.to_dict()
    stopped = {"letter", "leaves", "cheats", "cannot.be.stopped"}
    assert {student for student in say if student not in stopped and say[student] != "graded"} == set()
    assert say["letter"] == "not a notebook"
    assert say["leaves"] == "stopped: its kernel died"
    assert say["cheats"] == "stopped: it changed the course's files or marks, which were put back"
    assert graded.note["deleted"] == "put back: given-1, test-square-b, answer-number, test-number"
    assert graded.note["someone"] == "signed as 'right'"
    assert graded.note["right"] == ""
    assert (graded.seconds < 75).all()


def test_what_cannot_be_interrupted_still_ends(graded, mini):
    """The kernel is stopped by nbgrader or by our watch: either way the rest of the batch was graded."""
    assert graded.seconds["cannot.be.stopped"] < 75
    assert points(mini)["cannot.be.stopped"]["square"] == 0


def test_a_copied_number_names_its_owner(graded, mini):
    notebook = nbformat.read(mini / "autograded/copies/ps9_mini/ps9_mini.ipynb", as_version=4)
    (cell,) = [c for c in notebook.cells if id_of(c) == "test-number"]
    assert "is not yours: it is the number of right" in cell.outputs[0].evalue


def test_output_is_cut(graded, mini):
    assert (mini / "autograded/floods/ps9_mini/ps9_mini.ipynb").stat().st_size < 100_000


def test_the_table_and_the_plot(graded, mini):
    table = pd.read_csv(mini / "marks.csv", index_col="student")
    assert list(table.columns) == ["ps9_mini/number", "ps9_mini/square", "ps9_mini/why", "total", "to_read"]
    assert table.total.to_dict() == {s: sum(m.values()) for s, m in MARKS.items()} | {
        "cannot.be.stopped": table.total["cannot.be.stopped"]
    }
    assert table.to_read["right"] == 0  # it left the words as they were, so there is nothing to read
    assert (mini / "marks.png").read_bytes().startswith(b"\x89PNG")
    axes = course.plot_marks(course.marks(mini)).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ps9 square", "ps9 number", "ps9 why"]  # hardest on top
    none, some, every = ([bar.get_width() for bar in group] for group in axes.containers)
    for row, exercise in enumerate(("square", "number")):
        earned = points_of(mini, exercise)
        assert none[row] == (earned == 0).sum()
        assert every[row] == (earned == earned.max()).sum()
        assert none[row] + some[row] + every[row] == len(MARKS) + 1


def test_a_graded_text_counts(graded, mini):
    """After a person gave points in nbgrader, `marks` adds them up and `grade` keeps them."""
    with course.gradebook(mini) as book:
        grade = book.find_grade("written-why", "ps9_mini", "ps9_mini", "half")
        grade.manual_score, grade.needs_manual_grade = 3, False
        book.db.commit()
    assert course.main(["marks", str(mini)]) == 0
    assert pd.read_csv(mini / "marks.csv", index_col="student").total["half"] == 6


def test_control_c_ends_the_notebook(mini, monkeypatch, capsys):
    """It ran on without its limits, and Python told where it was."""
    process = course.PROCESSES.Process(target=time.sleep, args=(600,))
    process.start()
    join = process.join

    def interrupted(seconds=None):
        if seconds is not None:
            raise KeyboardInterrupt
        join()

    monkeypatch.setattr(process, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        course.watch(process, 600, 100)
    assert not process.is_alive()
    monkeypatch.setattr(course, "grade", lambda folder, options: interrupted(1))
    assert course.main(["grade", str(mini)]) == 130
    assert capsys.readouterr().err == "course grade: stopped by you\n"


def test_names_of_files(mini, tmp_path, capsys):
    good, bad = tmp_path / "ps9_mini_ada.ipynb", tmp_path / "homework.ipynb"
    good.write_text("{}")
    bad.write_text("{}")
    assert course.main(["collect", str(mini), str(good), str(bad)]) == 1
    assert "homework.ipynb: name it SET_STUDENT.ipynb" in capsys.readouterr().err
    assert not (mini / "inbox" / good.name).exists(), "all or none"
    names = ["ps9_mini_../x.ipynb", "ps9_mini_.ipynb", "ps9_mini_a b.ipynb", "ps9_mini_-f.ipynb"]
    names += ["ps9_mini_ada.ipynb.txt", "ps9_mini_ada.json", "ps9_mini_ada.IPYNB", "ps9_mini_ada"]
    for name in names:
        with pytest.raises(course.CourseError, match="name it SET_STUDENT"):
            course.split_name(Path(name.replace("/", "\\")), ["ps9_mini"])
    assert course.collect(mini, [good]) == [mini / "inbox" / good.name]
    (mini / "inbox" / good.name).unlink()


def test_the_rehearsal(tmp_path, capfd):
    """What the teacher's guide asks a new teacher to run first: release, four hand-ins, marks."""
    limits = ["--cell-seconds", "20", "--gigabytes", "3"]
    assert course.main(["rehearse", str(tmp_path / "try"), *limits]) == 0
    out = capfd.readouterr().out
    assert re.search(r"\d+ s in all", out)
    with capfd.disabled():
        print(out.splitlines()[-1], end=" ")
    table = pd.read_csv(tmp_path / "try/marks.csv", index_col="student").filter(like="/")
    answered = table.loc["right"] > 0
    last = "ps1_attention/fits"
    assert answered.sum() == 6
    assert (table.loc["broken"] == table.loc["right"].where(table.columns != last, 0)).all()
    assert (table.loc["hostile"] == table.loc["broken"]).all()
    assert 0 < table.loc["half"].sum() < table.loc["right"].sum()


@pytest.mark.parametrize("facts", ["text", [1], {}, {"grade_id": ["answer-square"]}, {"grade_id": 3}])
def test_bent_metadata_is_put_right(mini, tmp_path, facts):
    """Whatever stands where nbgrader keeps its facts: the cell counts as the student's own, and ours comes back."""
    release = nbformat.read(mini / "release/ps9_mini/ps9_mini.ipynb", as_version=4)
    bent = nbformat.read(mini / "release/ps9_mini/ps9_mini.ipynb", as_version=4)
    (cell,) = [c for c in bent.cells if id_of(c) == "answer-square"]
    cell.metadata["nbgrader"] = nbformat.from_dict(facts)
    nbformat.write(bent, tmp_path / "bent.ipynb")
    mended, note = course.whole_notebook(tmp_path / "bent.ipynb", release)
    assert note == "put back: answer-square"
    found = [c.metadata["nbgrader"]["grade_id"] for c in mended.cells if "nbgrader" in c.metadata]
    assert sorted(found) == sorted(filter(None, map(id_of, release.cells)))
    assert len(mended.cells) == len(release.cells) + 1


# --- the six sets ----------------------------------------------------------------------------------------------------


def mistakes_of(name):
    """The mistakes of a set, {answer: {title: source}}, and {answer: {title: points lost}} where that is not all."""
    module = importlib.import_module(f"classroom_{name[:3]}")
    return module.MISTAKES, getattr(module, "LOSES", {})


def rounds(name):
    """{student: ({answer: source}, {exercise: points lost})}: the first mistake of each answer, or every mistake.

    A round has the n-th mistake of each answer. Answers have different numbers of them, so in later rounds some are
    right beside others that are wrong. All rounds take minutes: set MIFAD_ALL_MISTAKES=1 for them.
    """
    mistakes, lost = mistakes_of(name)
    out = {}
    for turn in range(max(map(len, mistakes.values())) if os.environ.get("MIFAD_ALL_MISTAKES") else 1):
        titles = {answer: list(m)[turn] for answer, m in mistakes.items() if turn < len(m)}
        sources = {answer: mistakes[answer][title] for answer, title in titles.items()}
        out[f"round{turn}"] = sources, {answer: lost.get(answer, {}).get(t) for answer, t in titles.items()}
    return out


def run_set(name, folder):
    """Grade the solution, the untouched release and the rounds of a set. Returns what was marked wrong."""
    course.new_course(folder, "another secret", [name])
    hand_in(folder, name, "solution", "source", sign=False)
    hand_in(folder, name, "untouched")
    expected = rounds(name)
    for student, (sources, _) in expected.items():
        hand_in(folder, name, student, "source", **sources)
    status = course.grade(folder, OPTIONS)
    table, got = course.marks(folder), points(folder)
    words = set(table[table.to_read].exercise)
    best = {e: (0 if e in words else p) for e, p in table.groupby("exercise").of.first().items()}
    wrong = [] if (status.status == "graded").all() else [status.to_string()]
    for student, marks in got.items():
        right = best
        if student == "untouched":
            right = dict.fromkeys(best, 0)
        elif student in expected:
            losses = {e: best[e] if loss is None else loss for e, loss in expected[student][1].items()}
            right = {e: p - losses.get(e, 0) for e, p in best.items()}
        if marks != right:
            wrong.append(f"{student}: got {marks}, expected {right}")
    assert sum(best.values()) >= 15
    assert len(got) == len(expected) + 2
    return wrong, len(got), status.seconds.sum()


@pytest.fixture(scope="module")
def all_sets(tmp_path_factory):
    """The six sets, two at a time; each in a course of its own."""
    folders = {name: tmp_path_factory.mktemp(name[:3]) / "course" for name in SETS}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return dict(zip(SETS, pool.map(run_set, SETS, folders.values()), strict=True))


@pytest.mark.parametrize("name", SETS)
def test_solution_stub_and_mistakes_earn_what_they_should(all_sets, name):
    wrong, n, seconds = all_sets[name]
    print(f"{name}: {n} notebooks in {seconds:.0f} s")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """The module that hidden tests import, with a secret to draw from."""
    from classroom import grading

    (tmp_path / "secret.txt").write_text("another secret")
    monkeypatch.setattr(grading, "HERE", tmp_path)
    monkeypatch.setitem(sys.modules, "grading", grading)
    monkeypatch.delenv("MIFAD_STUDENT", raising=False)


@pytest.mark.parametrize("name", SETS)
def test_every_mistake_loses_its_points_and_no_others(name, secret, monkeypatch, capsys):
    """Without nbgrader, so that all of them can be tried: the cells as they stand, from the answer to its last test."""
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    notebook = jupytext.read(course.SETS[name], fmt="md:myst")
    cells = [(*course.tag_of(c), c.source) for c in notebook.cells if c.cell_type == "code"]
    mistakes, lost = mistakes_of(name)
    answers = {key for kind, key, _, _ in cells if kind == "answer"} - {"student"}
    assert set(mistakes) == answers
    assert all(len(m) >= 2 for m in mistakes.values())
    names = {"__name__": "__main__"}
    before = {}
    for kind, key, _, source in cells:  # the solution, and what an answer finds when its turn comes
        if kind == "answer":
            before[key] = dict(names)
        exec(source, names)
    for answer, titles in mistakes.items():
        first = next(i for i, (kind, key, *_) in enumerate(cells) if (kind, key) == ("answer", answer))
        own = [i for i, (kind, key, *_) in enumerate(cells) if kind == "test" and key.split(".")[0] == answer]
        everything = sum(cells[i][2] for i in own)
        for title, wrong in titles.items():
            names, failed, given = dict(before[answer]), {}, []
            for kind, key, worth, source in [("answer", answer, 0, wrong), *cells[first + 1 : own[-1] + 1]]:
                try:
                    exec(source, names)
                except Exception as error:
                    if kind == "test":
                        failed[key] = worth
                    elif kind is None:
                        given.append(error)
            assert not given, f"{answer}, {title}: a given cell stopped"
            assert {key.split(".")[0] for key in failed} <= {answer}, f"{answer}, {title}: another exercise failed"
            expected = lost.get(answer, {}).get(title, everything)
            assert sum(failed.values()) == expected, f"{answer}, {title}: lost {failed}, expected {expected} points"


# --- chapters --------------------------------------------------------------------------------------------------------


def test_chapters_for_students_and_teachers(tmp_path):
    written = course.write_chapters(tmp_path)
    assert len(written) == 2 * 13
    for student in sorted((tmp_path / "student").iterdir()):
        text, whole = student.read_text("utf8"), (tmp_path / "teacher" / student.name).read_text("utf8")
        checks = re.findall(r'exercises\.check\(\\"(ex-[\w-]+)', whole)
        assert "solution-start" in whole
        assert "solution-" not in text, student.name
        assert "assert exercises.check" not in text
        assert set(re.findall(r'exercises\.check\(\\"(ex-[\w-]+)', text)) == set(checks)
        notebook = nbformat.read(student, as_version=4)
        nbformat.validate(notebook)
        code = [c.source for c in notebook.cells if c.cell_type == "code"]
        assert sum("_ = exercises.check" in source for source in code) == len(set(checks)) >= 4
        before = [c.source for c in nbformat.reads(whole, as_version=4).cells if c.cell_type == "code"]
        assert len(before) - len(code) >= len(set(checks)), "one cell at least of each solution is gone"
        assert [s for s in before if s in set(code)] == code, "and nothing else"


def test_an_open_solution_is_an_error():
    cell = nbformat.v4.new_markdown_cell("text\n\n````{solution-start} ex-a\n````")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(course.CourseError, match="never closed"):
        course.without_solutions(notebook)
