"""nbgrader's settings for a course; `course.py new` copies this file into the course's folder."""

import os
import sys
from pathlib import Path

HERE = str(Path(__file__).parent) if "__file__" in globals() else os.getcwd()
sys.path.insert(0, HERE)  # for grading.py, here and in the kernels
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))

import grading  # noqa: E402
from nbgrader.preprocessors import (  # noqa: E402
    AssignLatePenalties,
    CheckCellMetadata,
    Execute,
    IgnorePattern,
    LimitOutput,
    NbGraderPreprocessor,
    SaveAutoGrades,
)


class ShortOutput(NbGraderPreprocessor):
    """nbgrader limits the number of lines. One line can be long as well."""

    def preprocess(self, nb, resources):
        return grading.shorten(nb), resources


c = get_config()  # noqa: F821
c.CourseDirectory.root = HERE
c.CourseDirectory.course_id = "mifad"
c.ClearSolutions.code_stub = {"python": '# your code here\nraise NotImplementedError("no answer yet")'}
c.ClearSolutions.text_stub = "Your answer here."
c.Execute.timeout = int(os.environ.get("MIFAD_CELL_SECONDS", "60"))
c.Execute.interrupt_on_timeout = True
c.Execute.extra_arguments = [
    "--HistoryManager.hist_file=:memory:",
    "--IPKernelApp.exec_lines=import grading; grading.free_after_errors()",
]
c.Execute.raise_on_iopub_timeout = False  # a flood of output is cut, and the rest is still graded
c.Autograde.autograde_preprocessors = [
    Execute,
    ShortOutput,
    IgnorePattern,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
