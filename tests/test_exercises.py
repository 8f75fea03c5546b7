"""The checks behind the exercises: each passes what is right, and tells the untouched stub and classic mistakes apart.

The cases stand in test_exercises_chNN.py, one file per chapter: CASES[label] = {"right": [answers], "stub": answer,
"wrong": {part of the message that names the mistake: answer}}. Every solution in the book is run by nbval too.
"""

import importlib
import re
from pathlib import Path

import pytest

from mifad_lite import exercises

HERE = Path(__file__).parent
CHAPTERS = sorted((HERE.parent / "book").glob("[0-9][0-9]_*.md"))
CASES = {}
for _path in sorted(HERE.glob("test_exercises_ch*.py")):
    CASES |= importlib.import_module(_path.stem).CASES


@pytest.mark.parametrize("label", CASES)
def test_right_answers_pass(label, capsys):
    for answer in CASES[label]["right"]:
        assert exercises.check(label, answer), capsys.readouterr().out
        assert capsys.readouterr().out == f"{label}: right.\n"


@pytest.mark.parametrize("label", CASES)
def test_the_stub_fails(label, capsys):
    assert not exercises.check(label, CASES[label]["stub"])
    assert f"{label}: not yet. " in capsys.readouterr().out


@pytest.mark.parametrize("label", CASES)
def test_mistakes_are_named(label, capsys):
    wrong = CASES[label]["wrong"]
    assert len(wrong) >= 2
    messages = set()
    for fragment, answer in wrong.items():
        assert not exercises.check(label, answer), f"passed, although wrong: {fragment}"
        message = capsys.readouterr().out
        assert fragment.lower() in message.lower()
        messages.add(message)
    assert len(messages) == len(wrong)  # each mistake has a message of its own


def test_every_check_has_cases():
    assert set(CASES) == set(exercises.CHECKS)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_exercise_of_a_chapter_is_checked(path):
    text = path.read_text("utf8")
    labels = re.findall(r"```\{exercise\}[^\n]*\n:label: (ex-[\w-]+)", text)
    assert len(labels) >= 4
    assert len(set(labels)) == len(labels)
    for label in labels:
        statement, _, rest = text.partition(f":label: {label}\n")[2].partition("\n```\n")
        assert "*Hint:*" in statement, label
        assert "*Expected:*" in statement, label
        stub, _, solution = rest.partition(f"{{solution-start}} {label}\n")
        solution = solution.partition("{solution-end}")[0]
        assert f'exercises.check("{label}", ' in stub, f"{label}: no check after the student's cell"
        assert f'assert exercises.check("{label}", ' in solution, f"{label}: the solution is not checked"
        assert label in exercises.CHECKS


def test_labels_are_used_once():
    labels = re.findall(r":label: (ex-[\w-]+)", "".join(path.read_text("utf8") for path in CHAPTERS))
    assert len(labels) == len(set(labels))


def test_check_says_what_it_cannot_use(capsys, monkeypatch):
    monkeypatch.setattr(exercises, "CHECKS", {})

    @exercises.exercise("ex-square")
    def square(answer):
        exercises.require(exercises.call(answer, 3) == 9, "3 squared is 9")
        exercises.require(len(exercises.call(answer, 2)) > 0, "never reached")

    for answer, message in (
        (None, "There is no answer yet"),
        (..., "There is no answer yet"),
        (4, "Expected a function, got int"),
        (lambda x: None, "Your function returns nothing yet"),
        (lambda x: x / 0, "Your function stopped with ZeroDivisionError: division by zero"),
        (lambda x: 3 * x + 1, "3 squared is 9."),
        (lambda x: x * x, "The check could not use your answer (TypeError"),
    ):
        assert exercises.check("ex-square", answer) is False
        assert capsys.readouterr().out.startswith(f"ex-square: not yet. {message}")
    with pytest.raises(KeyError, match="no exercise is called 'ex-cube'; there are ex-square"):
        exercises.check("ex-cube", 1)
    with pytest.raises(ValueError, match="two checks"):
        exercises.exercise("ex-square")(square)
