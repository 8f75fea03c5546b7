"""A course from this book: python book/classroom/course.py chapters|rehearse|new|collect|grade|marks FOLDER.

chapters   the book's chapters as notebooks: student/ without solutions, teacher/ with them
rehearse   all that follows once, in a new folder: one set, handed in right, half done, broken and hostile
new        an nbgrader course of six problem sets: source/ for the teacher, release/ for the students
collect    put handed-in files, named SET_STUDENT.ipynb, into the course's inbox/
grade      grade what is in inbox/, each notebook within limits of time, memory and output; then `marks`
marks      marks.csv, status.csv and marks.png from the gradebook (again after written answers were graded)

Needs what requirements.txt in this folder lists, nbgrader above all. nbgrader's own commands work in the folder too.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import psutil

HERE = Path(__file__).parent
BOOK = HERE.parent
SETS = {path.stem: path for path in sorted(HERE.glob("ps*_*.md"))}
TAG = re.compile(r"(answer|test|written)=([a-z0-9_]+(?:\.[a-z0-9]+)?)(?:/(\d+))?")
STUDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.@-]*")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # nbgrader calls alembic
# A forked process has nbgrader in memory already: importing it takes longer than grading a short notebook.
PROCESSES = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
BIGGEST = 20_000_000  # bytes of a notebook that somebody hands in


class CourseError(Exception):
    """What is wrong with a folder, a file or a source, in one sentence."""


# --- notebooks of the chapters ---------------------------------------------------------------------------------------


def without_solutions(notebook):
    """The chapter as a student gets it: no solution, and no output of the cells that were one."""
    kept, inside = [], False
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            if not inside:
                kept.append(cell)
            continue
        text = []
        for line in cell.source.splitlines():
            if re.match(r"`{3,}\{solution-start\}", line):
                inside = True
            if not inside:
                text.append(line)
            if re.match(r"`{3,}\{solution-end\}", line):
                inside = "closing"
            elif inside == "closing" and re.fullmatch(r"`{3,}", line):
                inside = False
        if source := "\n".join(text).strip():
            cell.source = source
            kept.append(cell)
    if inside:
        raise CourseError("a solution is opened and never closed")
    notebook.cells = kept
    return notebook


def write_chapters(folder: Path) -> list[Path]:
    """student/NAME.ipynb and teacher/NAME.ipynb for every chapter, from the committed notebooks."""
    written = []
    for path in sorted(BOOK.glob("[0-9][0-9]_*.ipynb")):
        for kind in ("student", "teacher"):
            notebook = nbformat.read(path, as_version=4)
            if kind == "student":
                without_solutions(notebook)
            (folder / kind).mkdir(parents=True, exist_ok=True)
            written.append(folder / kind / path.name)
            nbformat.write(notebook, written[-1])
    return written


# --- problem sets ----------------------------------------------------------------------------------------------------


def tag_of(cell) -> tuple[str | None, str, int]:
    """Kind ("answer", "test", "written" or None for given), name and points of a cell."""
    tags = cell.metadata.get("tags", [])
    if not tags:
        return None, "", 0
    match = TAG.fullmatch(tags[0])
    if len(tags) > 1 or match is None or (match[3] is None) != (match[1] == "answer"):
        raise CourseError(f"tags {tags}: use one of answer=NAME, test=NAME/POINTS and written=NAME/POINTS")
    return match[1], match[2], int(match[3] or 0)


def grade_id(kind: str, name: str) -> str:
    return f"{kind}-{name.replace('.', '-')}"


def exercise_of(grade: str) -> str:
    """The exercise that a grade of the gradebook belongs to: "test-weights-a" -> "weights"."""
    return grade.split("-")[1]


def source_notebook(path: Path):
    """A problem set as nbgrader's source: the cells' tags become nbgrader's metadata, given code is locked."""
    notebook = jupytext.read(path, fmt="md:myst")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    given = 0
    for number, cell in enumerate(notebook.cells):
        kind, name, points = tag_of(cell)
        cell.metadata.pop("tags", None)
        cell.id = f"{path.stem[:3]}-{number:03}"
        if kind is None and cell.cell_type != "code":
            continue
        if kind is None:
            given += 1
            kind, name = "given", str(given)
        facts = {
            "schema_version": 3,
            "grade_id": grade_id(kind, name),
            "grade": kind in ("test", "written"),
            "solution": kind in ("answer", "written"),
            "locked": kind in ("test", "given"),
            "task": False,
        }
        if facts["grade"]:
            facts["points"] = points
        cell.metadata["nbgrader"] = facts
    ids = [cell.metadata.nbgrader.grade_id for cell in notebook.cells if "nbgrader" in cell.metadata]
    if len(set(ids)) < len(ids):
        raise CourseError(f"{path.name}: two cells have the same tag")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def id_of(cell) -> str | None:
    """The cell's grade_id, whatever a student made of its metadata."""
    facts = cell.metadata.get("nbgrader")
    name = facts.get("grade_id") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else None


def gradebook(folder: Path):
    from nbgrader.api import Gradebook

    return Gradebook(f"sqlite:///{folder.resolve() / 'gradebook.db'}", "mifad")


def start_nbgrader(folder: Path, arguments: list[str], log: Path, environment: dict | None = None, gigabytes=0.0):
    """Start an nbgrader command in a process of its own, with what it says in `log`. Returns the process.

    gigabytes: a limit on the memory of each process that it starts; with it goes one on the size of a file (not on
        Windows). 0 sets none. A forked process begins with the addresses of this one, so with less it could not run,
        and everyone would get 0 points: then CourseError.
    """
    if gigabytes and sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") / 1e9
        if held > gigabytes:
            raise CourseError(
                f"this Python holds addresses for {held:.1f} GB, more than the {gigabytes:g} GB that a notebook may use"
                ": grade from a Python that has imported less, or raise the limit"
            )
    importlib.import_module("nbgrader.apps.nbgraderapp")  # here, for every process that is forked
    own = (folder.resolve(), arguments, log.resolve(), environment or {}, gigabytes)
    process = PROCESSES.Process(target=nbgrader, args=own)
    process.start()
    return process


def nbgrader(folder: Path, arguments: list[str], log: Path, environment: dict, gigabytes: float) -> None:
    """What that process does."""
    if os.name != "nt":
        import resource

        os.setsid()
        if gigabytes:
            size = int(gigabytes * 1e9)
            with suppress(ValueError, OSError):  # macOS does not limit address space
                resource.setrlimit(resource.RLIMIT_AS, (size, size))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000_000, 100_000_000))
    os.environ.update(environment)
    with open(os.devnull) as nothing, open(log, "w") as said:
        for own, number in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(own.fileno(), number)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    os.chdir(folder)
    from nbgrader.apps.nbgraderapp import NbGraderApp

    NbGraderApp.launch_instance(arguments)


def new_course(folder: Path, secret: str | None = None, names: list[str] | None = None) -> None:
    """Make the folder, write source/ and let nbgrader generate release/. Raises CourseError where one is there."""
    if (folder / "gradebook.db").exists():
        raise CourseError(f"{folder} already holds a course: grade it, or name another folder")
    for name in names or SETS:
        if name not in SETS:
            raise CourseError(f"there is no problem set {name!r}: use some of {', '.join(SETS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("grading.py", "nbgrader_config.py"):
        shutil.copy(HERE / name, folder / name)
    (folder / "secret.txt").write_text((secret or secrets.token_hex(16)) + "\n", "utf8")
    for part in ("inbox", "submitted"):
        (folder / part).mkdir(exist_ok=True)
    for name in names or SETS:
        path = folder / "source" / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(source_notebook(SETS[name]), path)
        log = folder / "log.txt"
        process = start_nbgrader(folder, ["generate_assignment", name], log)
        process.join()
        if process.exitcode:
            raise CourseError(f"nbgrader could not release {name}:\n{log.read_text('utf8', 'replace')}")
        log.unlink()


# --- what comes back -------------------------------------------------------------------------------------------------


def split_name(path: Path, names: list[str]) -> tuple[str, str]:
    """SET_STUDENT.ipynb -> set, student."""
    for name in names:
        rest = path.stem.removeprefix(f"{name}_")
        if path.suffix == ".ipynb" and rest != path.stem and STUDENT.fullmatch(rest):  # what `grade` looks for
            return name, rest
    raise CourseError(f"{path.name}: name it SET_STUDENT.ipynb, as in {names[0]}_ada; the sets are {', '.join(names)}")


def collect(folder: Path, files: list[Path]) -> list[Path]:
    """Copy files that were handed in to inbox/, all or none."""
    names = released(folder)
    for file in files:
        split_name(file, names)
        if not file.is_file():
            raise CourseError(f"{file} is not there")
    return [Path(shutil.copy(file, folder / "inbox" / file.name)) for file in files]


def released(folder: Path) -> list[str]:
    names = sorted(path.name for path in (folder / "release").glob("*/"))
    if not names:
        raise CourseError(f"{folder} holds no course: make one with `course.py new {folder}`")
    return names


def whole_notebook(file: Path, release):
    """What a student handed in, with the cells of the release that are missing put back; and a note where some were.

    A cell is missing where no cell has its grade_id; its place is after the one that precedes it in the release.
    Raises CourseError where the file is not a notebook.
    """
    if file.stat().st_size > BIGGEST:
        raise CourseError(f"the file has {file.stat().st_size / 1e6:.0f} MB, and {BIGGEST / 1e6:.0f} are the limit")
    try:
        notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # whatever a file can do to a parser
        raise CourseError(f"the file is no notebook ({type(error).__name__})") from error

    cells = [cell for cell in notebook.cells if cell.cell_type in ("code", "markdown", "raw")]
    known = [cell for cell in release.cells if id_of(cell)]
    missing, place = [], 0
    for cell in known:
        here = [i for i, other in enumerate(cells) if id_of(other) == id_of(cell)]
        if here:
            cells[here[0]].metadata["nbgrader"] = cell.metadata["nbgrader"]  # points and locks are ours to set
            place = max(place, here[0] + 1)
        else:
            missing.append(id_of(cell))
            cells.insert(place, cell)
            place += 1
    for cell in cells:
        if "nbgrader" in cell.metadata and id_of(cell) not in {id_of(c) for c in known}:
            del cell.metadata["nbgrader"]
        cell.pop("id", None)
    notebook.cells = cells
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook, f"put back: {', '.join(missing)}" if missing else ""


def signed(notebook) -> str:
    """The id that a notebook claims."""
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "answer-student":
            found = re.findall(r"^STUDENT\s*=\s*[\"']([^\"']*)[\"']", cell.source, re.MULTILINE)
            return found[-1] if found else ""
    return ""


def watch(process, seconds: float, gigabytes: float) -> str:
    """Wait for a process and all that it started. Returns "" or why it was stopped."""
    began, reason = time.monotonic(), ""
    parent = psutil.Process(process.pid)
    family = {parent.pid: parent}
    try:
        while process.is_alive() and not reason:
            with suppress(psutil.Error):
                family |= {child.pid: child for child in parent.children(recursive=True)}
            used = 0
            for member in list(family.values()):
                with suppress(psutil.Error):
                    used += member.memory_info().rss
            if used > gigabytes * 1e9:
                reason = f"stopped: more than {gigabytes:g} GB of memory"
            elif time.monotonic() - began > seconds:
                reason = f"stopped: more than {seconds:g} seconds"
            process.join(0.1)
    finally:  # Ctrl-C, too, which the process does not hear
        with suppress(psutil.Error):
            family |= {child.pid: child for child in parent.children(recursive=True)}
        for member in family.values():  # also what a notebook left running behind
            with suppress(psutil.Error):
                member.kill()
        process.join()
    return reason


class Guard:
    """What a notebook must not change while it is graded: the course's files and everybody's marks."""

    def __init__(self, folder: Path, name: str, student: str):
        self.folder, self.own = folder, (name, student)
        parts = [p for part in ("source", "release", "inbox") for p in (folder / part).rglob("*") if p.is_file()]
        parts += [folder / own for own in ("grading.py", "nbgrader_config.py", "secret.txt")]
        self.files = {path: path.read_bytes() for path in parts}
        self.database = (folder / "gradebook.db").read_bytes()
        self.scores = self.others()

    def others(self) -> dict:
        """Every score but the automatic ones of this notebook, which nbgrader sets after the notebook has run."""
        with gradebook(self.folder) as book:
            return {
                (a.name, s.student.id, g.name): (g.manual_score, g.extra_credit, None if own else g.auto_score)
                for a in book.assignments
                for s in a.submissions
                for own in [(a.name, s.student.id) == self.own]
                for n in s.notebooks
                for g in n.grades
                if not own or g.manual_score is not None or g.extra_credit is not None
            }

    def broken(self) -> bool:
        """Whether something was changed. Then it is put back."""
        harm = False
        for path, content in self.files.items():
            if not path.is_file() or path.read_bytes() != content:
                harm = True
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.write_bytes(content)
        try:
            same = self.others() == self.scores
        except Exception:  # whatever can be done to a database
            same = False
        if not same:
            (self.folder / "gradebook.db").write_bytes(self.database)
        return harm or not same


def grade_one(folder: Path, name: str, student: str, file: Path, options: argparse.Namespace, names: list[str]) -> dict:
    """Grade one notebook. What it does cannot stop the batch: a failure is a status, and its marks are 0."""
    release = nbformat.read(folder / "release" / name / f"{name}.ipynb", as_version=4)
    began, status, note, claim = time.monotonic(), "graded", "", ""
    target = folder / "submitted" / student / name / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        notebook, note = whole_notebook(file, release)
        claim = signed(notebook)
    except CourseError as error:
        notebook, status, note = release, "not a notebook", str(error)
    nbformat.write(notebook, target)
    if status == "graded":
        environment = {
            "MIFAD_STUDENT": student,
            "MIFAD_CLASS": json.dumps(names),
            "MIFAD_CELL_SECONDS": str(options.cell_seconds),
        }
        log, guard = target.with_name("log.txt"), Guard(folder, name, student)
        arguments = ["autograde", name, "--student", student, "--force"]
        process = start_nbgrader(folder, arguments, log, environment, options.gigabytes)
        try:
            reason = watch(process, options.seconds, 1.5 * options.gigabytes)
        except KeyboardInterrupt:
            guard.broken()  # what it changed until now is put back
            raise
        if reason or process.exitcode:
            said = log.read_text("utf8", "replace")
            hints = {"DeadKernelError": "its kernel died", "unresponsive": "a cell could not be interrupted"}
            hint = next((h for key, h in hints.items() if key in said), f"see {log.relative_to(folder)}")
            status = reason or f"stopped: {hint}"
        if guard.broken():
            status = "stopped: it changed the course's files or marks, which were put back"
    if status != "graded":
        no_marks(folder, name, student)
    if claim != student and status == "graded":
        note = "; ".join(filter(None, [f"signed as {claim!r}", note]))
    seconds = round(time.monotonic() - began, 1)
    return {"student": student, "set": name, "status": status, "note": note, "seconds": seconds}


def no_marks(folder: Path, name: str, student: str) -> None:
    """Zero for every automatic test of a notebook that could not be graded."""
    with warnings.catch_warnings(), gradebook(folder) as book:
        warnings.simplefilter("ignore")  # sqlalchemy's about nbgrader's own queries
        book.update_or_create_student(student)
        submission = book.update_or_create_submission(name, student)
        for notebook in submission.notebooks:
            for grade in notebook.grades:
                grade.auto_score, grade.needs_manual_grade = 0, False
        book.db.commit()


def grade(folder: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Grade everything in inbox/; write marks and statuses. Returns the statuses."""
    names = released(folder)
    jobs = [(*split_name(path, names), path) for path in sorted((folder / "inbox").glob("*.ipynb"))]
    if not jobs:
        raise CourseError(f"{folder / 'inbox'} is empty: put notebooks there, named SET_STUDENT.ipynb")
    students = sorted({student for _, student, _ in jobs})
    rows = []
    for name, student, path in jobs:
        row = grade_one(folder, name, student, path, options, students)
        rows.append(row)
        print(f"{name} {student}: {row['status']}, {row['seconds']} s {row['note']}".rstrip(), flush=True)
    status = pd.DataFrame(rows)
    status.to_csv(folder / "status.csv", index=False)
    write_marks(folder)
    return status


# --- marks -----------------------------------------------------------------------------------------------------------


def marks(folder: Path) -> pd.DataFrame:
    """One row per student, set and exercise: points, out of, and whether a person must still read it."""
    released(folder)  # a gradebook that is not there would be made
    rows = []
    with gradebook(folder) as book:
        for assignment in book.assignments:
            for submission in assignment.submissions:
                for notebook in submission.notebooks:
                    for g in notebook.grades:
                        rows.append(
                            {
                                "student": submission.student.id,
                                "set": assignment.name,
                                "exercise": exercise_of(g.name),
                                "points": g.score,
                                "of": g.max_score,
                                "to_read": bool(g.needs_manual_grade),
                            }
                        )
    if not rows:
        raise CourseError(f"{folder} has no marks yet: grade it first")
    parts = pd.DataFrame(rows)
    return parts.groupby(["student", "set", "exercise"], sort=True, as_index=False).agg(
        points=("points", "sum"), of=("of", "sum"), to_read=("to_read", "any")
    )


def write_marks(folder: Path) -> pd.DataFrame:
    """marks.csv: a row per student, a column per exercise, the total last. marks.png: where the class struggled."""
    table = marks(folder)
    wide = table.assign(column=table["set"] + "/" + table.exercise).pivot(
        index="student", columns="column", values="points"
    )
    wide["total"] = wide.sum(axis=1)
    wide["to_read"] = table.groupby("student").to_read.sum()
    wide.to_csv(folder / "marks.csv")
    plot_marks(table).savefig(folder / "marks.png", dpi=120)
    return wide


def plot_marks(table: pd.DataFrame):
    """A row per exercise, the hardest on top: how many students earned none, some and all of its points."""
    import matplotlib.pyplot as plt

    read = table[~table.to_read].assign(
        share=lambda t: t.points / t.of, name=lambda t: t["set"].str[:3] + " " + t.exercise
    )
    order = read.groupby("name").share.mean().sort_values(ascending=False, kind="stable").index
    fig, ax = plt.subplots(figsize=(6.4, 1.3 + 0.27 * len(order)), layout="constrained")
    left = pd.Series(0, index=order)
    for label, color, ink, here in (
        ("no points", "#b5532a", "white", read.share <= 0),
        ("some", "#e9c99b", "black", (read.share > 0) & (read.share < 1)),
        ("all points", "#0173b2", "white", read.share >= 1),
    ):
        count = read[here].name.value_counts().reindex(order, fill_value=0)
        bars = ax.barh(range(len(order)), count, left=left, color=color, height=0.75, label=label)
        ax.bar_label(bars, [n or "" for n in count], label_type="center", color=ink, fontsize=8)
        left += count
    ax.set(yticks=range(len(order)), yticklabels=order, xlabel="students", xlim=(0, max(left)))
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside upper center", ncols=3, frameon=False)
    plt.close(fig)
    return fig


# --- a rehearsal -----------------------------------------------------------------------------------------------------

HOSTILE = """import os
def memory():
    hoard = []
    while True:
        hoard.append(bytearray(100_000_000))
try:
    memory()
except MemoryError:
    pass
for _ in range(50_000):
    print("x" * 50)
while True:
    pass"""


def rehearse(folder: Path, options: argparse.Namespace, name: str = "ps1_attention") -> pd.DataFrame:
    """A course of one set, handed in four times and graded: right, half, broken, hostile. Returns the marks."""
    new_course(folder, names=[name])
    source = folder / "source" / name / f"{name}.ipynb"
    stubs = {id_of(c): c.source for c in nbformat.read(folder / "release" / name / source.name, 4).cells if id_of(c)}
    answers = [key for key in stubs if key.startswith("answer-") and key != "answer-student"]
    later, last = answers[len(answers) // 2 :], answers[-1]
    for student, changed in {
        "right": {},
        "half": {key: stubs[key] for key in later},
        "broken": {last: "def ("},
        "hostile": {last: HOSTILE},
    }.items():
        notebook = nbformat.read(source, as_version=4)
        for cell in notebook.cells:
            if id_of(cell) == "answer-student":
                cell.source = f'STUDENT = "{student}"'
            cell.source = changed.get(id_of(cell), cell.source)
        nbformat.write(notebook, folder / "inbox" / f"{name}_{student}.ipynb")
    grade(folder, options)
    return write_marks(folder)


# --- the command -----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("chapters", "rehearse", "new", "collect", "grade", "marks"):
        sub = commands.add_parser(name)
        sub.add_argument("folder", type=Path)
        if name == "new":
            sub.add_argument("--secret", help="what hidden cases are drawn from (default: drawn)")
            sub.add_argument("--sets", nargs="+", metavar="SET", help=f"of {', '.join(SETS)} (default: all)")
        if name == "collect":
            sub.add_argument("files", nargs="+", type=Path)
        if name in ("rehearse", "grade"):
            sub.add_argument("--seconds", type=float, default=300, help="for one notebook, after which it is stopped")
            sub.add_argument("--cell-seconds", type=int, default=60, help="for one cell; the next one still runs")
            sub.add_argument("--gigabytes", type=float, default=4, help="memory of one notebook")
    args = parser.parse_args(argv)
    try:
        if args.command == "chapters":
            print(f"{len(write_chapters(args.folder))} notebooks in {args.folder}/student and {args.folder}/teacher")
        elif args.command == "rehearse":
            began = time.monotonic()
            print(f"{rehearse(args.folder, args).T.to_string()}\n{time.monotonic() - began:.0f} s in all")
        elif args.command == "new":
            new_course(args.folder, args.secret, args.sets)
            print(f"hand out {args.folder}/release; keep everything else to yourself")
        elif args.command == "collect":
            print(f"{len(collect(args.folder, args.files))} notebooks in {args.folder}/inbox")
        elif args.command == "grade":
            grade(args.folder, args)
            print(f"{args.folder}/marks.csv, status.csv, marks.png")
        else:
            print(write_marks(args.folder).to_string())
    except (CourseError, OSError) as error:
        print(f"course {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"course {args.command}: stopped by you", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
