"""The self-tests in the chapters: their form, one right answer each, and neither letter nor length gives it away."""

import csv
import re

import build_notebooks
import jupytext
import pytest

CHAPTERS = build_notebooks.chapters()
QUIZ = re.compile(
    r":{5}\{admonition\} Check yourself\n:class: quiz\n:name: (\S+)\n\n(.+?)\n\n(:{4}\{.+)\n:{5}", re.DOTALL
)
OPTION = re.compile(r":{4}\{dropdown\} ([^\n]+)\n:class-container: quiz-(yes|no)\n\n(.+?)\n:{4}", re.DOTALL)


def quizzes(path):
    """[(name, question, [(text, "yes" or "no", feedback), ...]), ...]: a cell that holds a quiz holds nothing else."""
    found = []
    for cell in jupytext.read(path, fmt="md:myst").cells:
        if "{admonition} Check yourself" in cell.source or "quiz-" in cell.source:
            quiz = QUIZ.fullmatch(cell.source)
            assert quiz, f"{path.stem}: not the form of a quiz:\n{cell.source[:300]}"
            name, question, rest = quiz.groups()
            options = OPTION.findall(rest)
            assert not OPTION.sub("", rest).strip(), f"{name}: something between or inside the options"
            found.append((name, question, options))
    return found


ALL = {path.stem: quizzes(path) for path in CHAPTERS}


@pytest.fixture(params=ALL)
def chapter(request):
    return ALL[request.param]


def right(options):
    return next(i for i, (_, answer, _) in enumerate(options) if answer == "yes")


def test_at_least_three(chapter):
    assert len(chapter) >= 3


def test_one_question(chapter):
    for name, question, _ in chapter:
        assert question.endswith("?"), name
        assert "\n" not in question, name


def test_one_right_and_at_least_two_wrong(chapter):
    for name, _, options in chapter:
        answers = [answer for _, answer, _ in options]
        assert answers.count("yes") == 1, name
        assert 2 <= answers.count("no") <= 3, name


def test_letters_in_order_and_options_that_differ(chapter):
    for name, _, options in chapter:
        texts = [text for text, _, _ in options]
        assert [text[:3] for text in texts] == [f"{letter}. " for letter in "ABCD"[: len(texts)]], name
        assert len({text[3:] for text in texts}) == len(texts), name
        assert all(text.endswith(".") for text in texts), name


def test_the_feedback_says_yes_or_no_and_why(chapter):
    for name, _, options in chapter:
        for text, answer, feedback in options:
            assert feedback.startswith(f"**{answer.capitalize()}.** "), f"{name}, {text}"
            assert len(feedback) >= 40, f"{name}, {text}"
            assert text[3:] not in feedback, f"{name}: repeats {text}"


def test_an_option_does_not_sound_like_its_verdict(chapter):
    """ "A. No: ..." above "**Yes.**" would be read twice, and so would "**No.** No layer ..."."""
    for name, _, options in chapter:
        for text, _, feedback in options:
            assert not re.match(r"(Yes|No)\b", text[3:]), f"{name}, {text}"
            assert not re.search(r"\*\* (Yes|No)\b", feedback), f"{name}, {text}"


def test_quizzes_stand_apart_before_the_exercises(chapter):
    """Each directly after a section: a heading follows, none of them stands among the exercises."""
    path = next(p for p in CHAPTERS if ALL[p.stem] is chapter)
    cells = [cell.source for cell in jupytext.read(path, fmt="md:myst").cells]
    places = [i for i, source in enumerate(cells) if QUIZ.fullmatch(source)]
    assert max(places) < next(i for i, source in enumerate(cells) if re.search(r"^## Exercises$", source, re.MULTILINE))
    assert min(b - a for a, b in zip(places, places[1:], strict=False)) >= 2
    for i in places:
        assert re.match(r"(\(.+\)=\n)?##", cells[i + 1]), cells[i + 1][:80]


def test_every_name_has_its_misconception(root):
    names = [name for chapter in ALL.values() for name, _, _ in chapter]
    assert len(set(names)) == len(names)
    with (root / "book/classroom/misconceptions.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["quiz", "misconception"]
    assert [row["quiz"] for row in rows] == names
    for row in rows:
        assert re.fullmatch(r"quiz-[a-z]+-\d", row["quiz"])
        assert 4 <= len(row["misconception"].split()) <= 12, row


def test_every_letter_is_right_about_as_often():
    places = [right(options) for chapter in ALL.values() for _, _, options in chapter]
    for letter in range(3):
        assert places.count(letter) >= len(places) / 5, "ABC"[letter]
    assert 3 in places


def test_the_right_option_is_seldom_the_longest():
    longest = 0
    for chapter in ALL.values():
        for _, _, options in chapter:
            lengths = [len(text) for text, _, _ in options]
            longest += lengths[right(options)] == max(lengths)
    assert longest < sum(map(len, ALL.values())) / 2, longest
