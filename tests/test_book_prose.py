"""No measured number is typed into prose: what looks like one is filled in from a record, or listed here with a reason.

The chapters print their results in cells, the pages take theirs through markers (test_report.py). So a percentage, a
speed or a time that stands in a sentence must be a fact of a publication, a definition, or arithmetic of the text.
"""

import re

import pytest

DIGITS = r"\d[\d,]*(?:\.\d+)?"
WORDS = "one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty sixty half"
NUMBER = f"(?:{DIGITS}|{WORDS.replace(' ', '|')})"
ALONE = r"(?<![\w.,{-])"  # neither the rest of a word or number, nor a formula's index
UNIT = (
    r"(?:%|percent|points?|images/s|images (?:a|per) second|ms|milliseconds?|seconds?|minutes?|hours?"
    r"|[kKMG]i?B|(?:giga|mega)bytes?)(?![\w%])"
)
MEASURED = re.compile(
    rf"{ALONE}{NUMBER}[ -](?:(?:to|or|and) {NUMBER} )?(?:of a )?{UNIT}|{ALONE}{DIGITS}(?:[ -]times|-fold)\b",
    re.IGNORECASE,
)
LITERAL = re.compile(r"(`{3,})(?:\{(?:code-cell|math|bibliography)\}.*|\w*\s*)")  # fences around what is no prose


def prose(text: str) -> str:
    """A page without header, markers' contents, code, formulas and roles, all white space one blank."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--r:.*?<!--/r-->", "", text, flags=re.DOTALL)
    kept, literal, open_fences = [], None, []
    for line in text.splitlines():
        bare = re.fullmatch(r"(`{3,}) *", line)
        if literal:
            literal = None if bare and bare[1] == literal else literal
        elif bare and open_fences and open_fences[-1] == bare[1]:
            open_fences.pop()
        elif fence := LITERAL.fullmatch(line):
            literal = fence[1]
        elif fence := re.match(r"(`{3,})\{", line):
            open_fences.append(fence[1])
        elif not re.match(r":(?:name|label|width|class|gated|nonumber):", line):
            kept.append(line)
    assert not literal, "a fence that never ends"
    assert not open_fences, "a directive that never ends"
    text = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", "$", "\n".join(kept), flags=re.DOTALL)
    text = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "`", text)
    return re.sub(r"\s+", " ", text)


PAPER = "the paper states it (Cai et al., 2021)"
SUM = "arithmetic of the numbers beside it"
LEVEL = "a level of confidence or significance"
GUESS = "a question, or a choice between answers"
ASSUMED = "an example that the text makes up, and says so"
GOAL = "a dial or limit that we set"
PLAN = "a plan for a lesson"
COUNT = "a number of points in a drawing, not of accuracy"

EVERYWHERE = {
    "1.02 points": PAPER,
    "1.02 to 4.53 points": PAPER,
    "1.97 points": PAPER,
    "95 % interval": LEVEL,
    "95 % Wilson interval": LEVEL,
}

ALLOWED = {
    "book/01_data.md": {
        "Suppose a network scores 68 % on a test": GUESS,
        "agreed with its labels on about 65 % of the faces, give or take five points": "Goodfellow et al., 2013",
        "to every face: about 5, 14 or 25 percent?": GUESS,
        "beats a guess between seven by about ten points": "879 of 3,589 happy faces against one in seven",
        "so the accuracy is 84 %. The accuracies per class are 60, 90 and 60 %": SUM,
        "Their plain mean is 70 %": SUM,
        "The accuracy is 80 %, only four points less. The class mean is 33 %": SUM,
        "72 were: a share of 94 %": SUM,
        "Each row adds up to 100 percent": "shares of a whole",
        "a test of 350, which is 8 %": SUM,
        "Now 8 % of the test are twins": SUM,
        "with one label in five wrong, scores 80 %": SUM,
        "lose twenty points as well?": GUESS,
        "what the 65 % of people mean": "Goodfellow et al., 2013, cited above it",
        "74 % on the private test leaves about 71.7 %": "an exercise's arithmetic, computed by its check",
        "asks for ten points more than the nearest mean": "what an exercise's check asks for",
    },
    "book/02_columns.md": {
        "which is roughly 60 % of the side": "the Gaussian approximation of the formula before it",
        "the square of 2,304 is 256 times the square of 144": SUM,
    },
    "book/04_spatial_attention.md": {
        "a matrix of more than two GiB": "128 x 2,304 x 2,304 numbers of four bytes",
        "computed at 144 points": COUNT,
    },
    "book/06_network.md": {
        "First the face grows 24-fold": "55,296 over 2,304 numbers, shapes",
        "Then the pooling takes away 99.3 %": "all but 48 of 6,912 numbers, shapes",
        "uses each of them 2,304 times": "48 x 48 places, shapes",
        "column 7 does 5.4 times the work": "49 over 9 weights, shapes",
    },
    "book/07_margin.md": {
        "For seven points on the sphere": COUNT,
        "place one point per class": COUNT,
    },
    "book/08_centers.md": {
        "and one point for all needs no look at the face": COUNT,
        "two centers point east, two point west": "a verb",
    },
    "book/09_training.md": {
        "a GPU of 8 GB": GUESS,
        "over the first 30 % of the run": GOAL,
        "nearer to 30, 60 or 90 percent?": GUESS,
        "is far below 100 %": "a full load",
        "it is about three points wide": "Wilson's formula at 3,589 images",
        "an interval one point wide at 70 %?": GUESS,
        "(0.01 is one point)": "a definition",
        "A target of 100 %": "all of a label",
        "other data are reported at 73.3 %": "the publication that is cited after it",
        "as large as 8 MB can hold in 16 bits": GOAL,
        "We had set ourselves a bar of 70 %": GOAL,
        "this time it goes on for almost six hours": GOAL,
        "We had given it six hours of one core": GOAL,
    },
    "book/10_evaluation.md": {
        'A network answers "angry, 99 %"': ASSUMED,
        "with $ for 95 %": LEVEL,
        "it never leaves 0 to 100 %": "the range of a share",
        "all answers given with 80 %, four in five": SUM,
    },
    "book/11_ablation.md": {
        "The accuracy of 74 % and the share of 20 % are our assumptions": ASSUMED,
        "The middle 95 % of that histogram": LEVEL,
        "at the level of 5 %?": LEVEL,
        "the upper end of the interval lies below one point (D)": GOAL,
        "Each has a 5 % chance to be called": LEVEL,
        "(One of 5 %, one third, one half?)": GUESS,
        "brings the chance of *any* false alarm back to 5 %": LEVEL,
        "Say you want to see one point": GUESS,
        "For a chance of 80 %": LEVEL,
        "One-point claims take both": GUESS,
        "at 20 % of disagreement? How many at 10 %?": GUESS,
        "the luck of a long run is 0.4 points?": ASSUMED,
        "Below a gap of about one and a half points": "an exercise's arithmetic, computed by its solution",
    },
    "book/12_paper.md": {
        "each is right on 74 % of all faces": ASSUMED,
        '"7 % words, 38 % voice, 55 % face"': "quoted from what is called a misreading",
    },
    "book/deviations.md": {
        "a 7 x 7 kernel costs 5.4 times a 3 x 3": "49 over 9 weights, shapes",
        "the margin is ramped up over 30 % of the run": GOAL,
        "as many weights as 8 MB in 16 bits hold": GOAL,
    },
    "book/glossary.md": {
        "predicted with 80 % confidence are right in 80 % of cases": "a definition",
        "stays inside 0 to 100 %": "the range of a share",
    },
    "book/index.md": {
        "What is a lead of one point worth?": GUESS,
        "Plan twenty minutes to an hour for each": "advice, on people's time",
    },
    "book/reproduce.md": {
        "a 99 % prediction interval": LEVEL,
        "never less than two points from the middle": GOAL,
    },
    "book/run.md": {"may take more than two minutes: the tests stop it": GOAL},
    "book/teach.md": {
        "Ask for five minutes at the board": PLAN,
        "the cell fails at 4 GB": GOAL,
        "no notebook, or 20 MB of one": GOAL,
        "One lecture (90 minutes)": PLAN,
        "Ten minutes for the opening question": PLAN,
        "what is a lead of one point worth?": GUESS,
        "five meetings of two hours": PLAN,
        "twenty minutes to an hour of reading": PLAN,
        "Its leads are about one point": PAPER,
    },
}


@pytest.fixture(scope="module")
def pages(root):
    paths = [*(root / "book").glob("*.md"), root / "README.md", root / "mifad_lite/pretrained/README.md"]
    return {path.relative_to(root).as_posix(): prose(path.read_text("utf8")) for path in sorted(paths)}


def unexplained(text: str, fragments) -> list[str]:
    """What looks measured in a page's prose and lies within none of the fragments, with some words around it."""
    spans = [hit.span() for fragment in fragments for hit in re.finditer(re.escape(fragment), text)]
    return [
        text[max(0, hit.start() - 50) : hit.end() + 30]
        for hit in MEASURED.finditer(text)
        if not any(start <= hit.start() and hit.end() <= end for start, end in spans)
    ]


def test_no_measured_number_is_typed(pages):
    problems = [
        f"{page}: ...{found}..."
        for page, text in pages.items()
        for found in unexplained(text, [*EVERYWHERE, *ALLOWED.get(page, {})])
    ]
    assert not problems, "take it from a record, or say in ALLOWED why not:\n" + "\n".join(problems)


def test_every_exception_is_needed(pages):
    """An entry whose sentence is gone, or has no number that looks measured, is dead."""
    dead = [f for f in EVERYWHERE if not any(f in text for text in pages.values())]
    dead += [
        f"{page}: {fragment}"
        for page, entries in ALLOWED.items()
        for fragment in entries
        if fragment not in pages[page] or not MEASURED.search(fragment)
    ]
    assert not dead, "\n".join(dead)
    assert sum(map(len, ALLOWED.values())) < 80, "too many exceptions: take the numbers from records"


@pytest.mark.parametrize(
    "typed",
    [
        "It scored 67.9 % on the private test.",
        "It gains about three points.",
        "A step takes 391.67 ms.",
        "That takes 90 minutes on two cores.",
        "one and\n12.5 seconds",
        "It reads 1,500 images/s, or 1500 images a second.",
        "The checkpoint has 5.5 MB.",
        "The naive loop is 2.09 times as slow.",
        "a gain of 2.1 to 3.4 points",
        "| lite | 68.2 % |",
        "```{exercise} One\n:label: ex-one\nIt scored 70 % there.\n```",
        "```{figure} a.png\n:alt: A bar at 70 %.\n\nCaption.\n```",
        "```{note}\nsome\n```\n\nIt scored 70 %.",
    ],
)
def test_what_looks_measured(typed):
    assert unexplained(prose(typed), [])
    assert not unexplained(prose(typed), [prose(typed)])


@pytest.mark.parametrize(
    "fine",
    [
        "It scores <!--r:plain.private.whole-->67.90 %<!--/r--> there.",
        "```{code-cell} ipython3\nprint('67.90 %')\n```",
        "```bash\nsleep 60 seconds\n```",
        "```{math}\n:label: eq-x\n50 %\n```",
        "`67 %` and $0.5\\,%$ and $$\n67 %\n$$",
        "---\ntitle: 67 %\n---\nText.",
        "Three columns, 7 x 7 kernels, 48 pixels, 30 epochs, a second thing, a point of view",
        "<!--r:bench.table-->\n| lite | 218 images/s |\n<!--/r-->",
    ],
)
def test_what_does_not(fine):
    assert not unexplained(prose(fine), [])
