"""Make the slides of a chapter from its committed notebook, outputs included; nothing is executed.

    python book/classroom/slides.py [--out FOLDER] [03 04 07]

Each section (## or ###) becomes a title with its key sentences: those with something in bold, or else its first one.
Equations, figures, lists and tables become slides in the order of the text. A paragraph with a question in bold
becomes a slide of its own, before the figure or the printed answer. Everything else goes to the speaker notes.
A cell with the tag `slide-skip` makes no slide; with `slide-prose`, the sentence before a figure becomes its caption.
Needs nbconvert and math-core.
"""

import argparse
import base64
import html
import json
import re
import struct
from pathlib import Path

import nbformat
from math_core import LatexToMathML
from nbconvert import SlidesExporter

HERE = Path(__file__).resolve().parent
BOOK = HERE.parent
OUT, VENDOR = BOOK / "_static" / "slides", BOOK / "_static" / "vendor" / "reveal"
NAMES = ("03", "04", "07")
WORDS = 40  # on a slide
WIDTH, HEIGHT = 960, 520  # of a figure, in pixels of a stage of 960 x 700
COLUMNS, LINES = 50, 10  # of a printed output
SENTENCE_END = re.compile(r"(?:(?<=[.?!])|(?<=[.?!]\*\*)|(?<=[.?!]\)))\s+(?=[A-Z$*`\"({\[])")
BLOCK = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w-]+)\} ?(?P<argument>.*)\n"
    r"(?P<options>(?::.*\n)*)(?P<body>(?:.*\n)*?)(?P=fence)$"
    r"|^\$\$\n(?P<math>(?:.*\n)*?)\$\$$"
    r"|^(?P<level>#+) (?P<heading>.*)$"
    r"|^(?P<text>(?!`{3}|:{3}|\$\$|#+ ).+(?:\n(?!`{3}|:{3}|\$\$|#+ ).+)*)",
    re.MULTILINE,
)


def chapter(name):
    """The notebook of the chapter with this number."""
    return json.loads(next(BOOK.glob(f"{name}_*.ipynb")).read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def pictures(cell):
    """PNG (base64) and alternative text of each figure of a code cell; of a figure that moves, its still."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            yield data["image/png"].replace("\n", ""), output["metadata"]["image/png"]["alt"]
        for still in re.findall(r"<img[^>]*>", "".join(data.get("text/html", ""))):
            png = re.search(r'src="data:image/png;base64,([^"]+)"', still)
            yield png[1], html.unescape(re.search(r'alt="([^"]*)"', still)[1])


def printed(cell):
    """What a code cell printed."""
    return "".join("".join(output.get("text", "")) for output in cell.get("outputs", [])).rstrip()


def labels():
    """What references show: the titles of chapters, sections and exercises, and the book's numbers of equations."""
    found = {}
    pages = [(BOOK / "index.md").read_text(encoding="utf-8")]
    for path in sorted(BOOK.glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        pages.append("\n\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown"))
    text = "\n\n".join(pages)
    found.update((label, title) for label, title in re.findall(r"^\((\S+)\)=\n+#+ (.*)$", text, re.MULTILINE))
    exercises = re.findall(r"^`{3,}\{exercise\} (.*)\n:label: (\S+)", text, re.MULTILINE)
    found.update((label, f'the exercise "{title}"') for title, label in exercises)
    equations = re.findall(r"^```\{math\}\n:label: (\S+)", text, re.MULTILINE)
    return found | {label: f"({number})" for number, label in enumerate(equations, 1)}


def sentences(text):
    """The sentences of a paragraph; bold that runs over several is closed and opened again."""
    found, bold = [], False
    for part in SENTENCE_END.split(" ".join(text.split())):
        opened, bold = bold, bold != (part.count("**") % 2 == 1)
        found.append("**" * opened + part + "**" * bold)
    return found


def is_question(text):
    """Whether something in bold asks, or asks to decide."""
    return any(re.search(r"\?|decide|questions", bold, re.IGNORECASE) for bold in re.findall(r"\*\*(.+?)\*\*", text))


def words(text):
    """How many words a reader sees; a formula counts as one."""
    text = re.sub(r"\{cite(:\w)?\}`[^`]*`", "", re.sub(r"\$[^$]*\$", "x", text))
    return len(re.findall(r"\w[\w'.,/-]*", text))


def packs(parts, used=0):
    """Consecutive parts in as few packs of at most WORDS words as need be, all about as long; `used` words in each."""

    def packed(most):
        found = []
        for part in parts:
            if found and sum(map(words, [*found[-1], part])) <= most:
                found[-1].append(part)
            else:
                found.append([part])
        return found

    fewest = len(packed(WORDS - used))
    return next(found for found in map(packed, range(WORDS - used + 1)) if len(found) == fewest)


def shorten(text, most):
    """As many whole sentences as fit into so many words, one at least."""
    first, *more = sentences(text)
    for sentence in more:
        if words(first) + words(sentence) > most:
            break
        first = f"{first} {sentence}"
    return first


def caption_of(alt):
    """The first sentence of the alternative text; of a figure in panels, the sentence that opens each."""
    first, *more = sentences(alt)
    if re.match("Left|Top", first):
        first = " ".join([first, *(s for s in more if re.match("Right|Bottom|Below|Top", s))])
    elif words(first) < 6:
        first = " ".join([first, *more[:1]])
    while words(first) > 35 and re.search("[,;.] ", first):  # its first phrases will do
        first = re.sub("[,;.] (?!.*[,;.] ).*", ".", first)
    return first


class Deck:
    """The slides of one chapter: [kind, text, starts a section, notes] each."""

    def __init__(self, name):
        self.references, self.mathml, self.held = labels(), LatexToMathML(), []
        self.slides, self.exercises = [], []
        self.section, self.first = None, ""  # a heading that has no slide yet, and the first sentence under it
        self.keys, self.waiting = [], []  # key sentences, and prose for the notes, that have no slide yet
        self.lead = ""  # the last sentence of the paragraph just read
        self.solving = self.asked = False  # inside a solution; a question waits for its answer
        for cell in chapter(name)["cells"]:
            tags = cell["metadata"].get("tags", [])
            if "slide-skip" in tags:
                continue
            if cell["cell_type"] == "markdown":
                self.read(source(cell))
            elif not self.solving and not self.exercises:
                self.show(cell, "slide-prose" in tags)
        self.flush()
        for titles in packs(self.exercises):
            self.section = (2, "Exercises")
            self.add("exercises", "\n".join(f"- {title}" for title in titles))

    # what a slide is made of

    def hold(self, markup):
        """Keep HTML away from nbconvert's Markdown: a token stands for it until the page is written."""
        self.held.append(markup)
        return f"\ue000{len(self.held) - 1}\ue001"

    def math(self, formula, display=False):
        return self.hold(self.mathml.convert_with_local_state(formula.strip(), displaystyle=display))

    def inline(self, text):
        """MyST without roles, links and TeX: references resolved, citations dropped, formulas as MathML."""
        text = re.sub(r"(?<!\$)\$([^$]+)\$(?!\$)", lambda found: self.math(found[1]), text)
        text = re.sub(r"\s*\{cite(:\w)?\}`[^`]*`", "", text)
        text = re.sub(r"\{ref\}`([^`<]+?)\s*<[^>]+>`", r"\1", text)
        text = re.sub(r"\{(?:ref|eq)\}`([^`]+)`", lambda found: self.inline(self.references[found[1]]), text)
        return re.sub(r"(?<!!)\[([^\]]+)\]\([^)]+\)", r"\1", text)

    def add(self, kind, text):
        """One more slide, with the heading that waits for one and the prose that has gathered for its notes."""
        level, title = self.section or (0, "")
        text = f"{'#' * level} {title}\n\n{text}" if level else text
        self.slides.append([kind, text, 0 < level < 3, self.waiting])
        self.section, self.first, self.waiting = None, "", []

    def note(self, text):
        waits = self.section or self.keys or not self.slides
        (self.waiting if waits else self.slides[-1][3]).append(text)

    def title_words(self):
        return words(self.section[1]) if self.section else 0

    def flush(self, lead=""):
        """Key sentences that wait get their slides, under the heading if that waits too; `lead` is shown elsewhere."""
        if self.keys and self.keys[-1] == lead:
            self.keys.pop()
        if self.section and not self.keys and self.first.removesuffix(lead):
            self.keys = [self.first.removesuffix(lead)]
        keys, self.keys = self.keys, []
        for part in packs(keys, self.title_words()):
            self.add("section" if self.section else "statement", "\n\n".join(part))

    # reading the notebook

    def read(self, text):
        """A Markdown cell, block by block."""
        if not self.section:  # what is said about one figure is not mixed with what is said about the next
            self.flush()
        for block in BLOCK.finditer(text):
            name = block["name"] or ""
            if name.startswith("solution"):
                self.solving = name == "solution-start"
            elif self.solving:
                continue
            elif name == "exercise":
                self.exercises.append(block["argument"])
            elif name == "math" or block["math"]:
                label = re.search(r":label: (\S+)", block["options"] or "")
                self.equation(block["body"] or block["math"], self.references[label[1]] if label else "")
            elif name and ":::" not in block["body"]:  # not the quizzes, which are for the page
                self.note(f"**{block['argument']}.** {block['body']}")
            elif name:
                continue
            elif block["level"]:
                self.flush()
                if block["heading"] != "Exercises":
                    self.section = (len(block["level"]), block["heading"])
            elif re.match(r"- |\d+\. ", block["text"]):
                self.items(block["text"])
            elif block["text"].startswith("|"):
                self.flush()
                self.add("table", block["text"])
            elif not re.match(r"\(\S+\)=$|\[Open this chapter", block["text"]):
                self.paragraph(block["text"])

    def paragraph(self, text):
        text = " ".join(text.split())
        parts = sentences(text)
        self.lead = parts[-1] if words(parts[-1]) > 5 else " ".join(parts[-2:])
        if self.section and self.section[0] == 1:  # the chapter's opening question
            asked = [part for part in parts if part.rstrip("*").endswith("?")]
            whole = asked and parts[: parts.index(asked[-1]) + 1]
            self.keys += whole if sum(map(words, whole)) <= WORDS - self.title_words() else asked
        elif is_question(text):
            self.question(parts)
            self.asked = True
        elif self.slides[-1][0] == "answer" and not self.section:
            self.slides[-1][0:2] = "answer with caption", f"{self.slides[-1][1]}\n\n{shorten(text, 20)}"
        else:
            self.first = self.first or (shorten(text, 25) if self.section else "")
            self.keys += [part for part in parts if "**" in part and not text.startswith("(")]
        self.note(text)

    def question(self, parts):
        self.lead = ""
        start = next(i for i, part in enumerate(parts) if is_question(part))
        kicker = "Decide first" if re.search("decide", parts[start], re.IGNORECASE) else "Question"
        kicker = self.hold(f'<p class="kicker">{kicker}</p>')
        asked = [re.sub(r"\*\*[^*?]*\b[Dd]ecide[^*?]*\*\*\s*", "", part) for part in parts[start:]]
        asked = [part[:1].upper() + part[1:] for part in asked if part]
        if start and sum(map(words, asked)) < 13:  # too short to stand alone
            asked.insert(0, parts[start - 1])
        if any(part.startswith("(1)") for part in asked):  # numbered questions stay whole
            asked = re.split(r" (?=\(\d\))", " ".join(asked))
        self.flush()
        for part in packs(asked, self.title_words() + 2):
            self.add("question", "\n\n".join([kicker, *part]))

    def equation(self, formula, number):
        self.flush(self.lead)
        size = "long" if formula.count("\\\\") > 1 or len(formula) > 100 else ""
        number = f"<span>{number}</span>" if number else ""
        held = self.hold(f'<div class="equation {size}">{self.math(formula, display=True)}{number}</div>')
        self.add("formula", f"{self.lead}\n\n{held}")
        self.lead = ""

    def items(self, text):
        parts = [part.strip() for part in re.split(r"^(?:-|\d+\.) ", text, flags=re.MULTILINE)[1:]]
        lead, self.lead = self.lead, ""
        self.flush(lead)
        shown, count = [shorten(" ".join(part.split()), 25) for part in parts], 1
        for part in packs(shown, words(lead) + self.title_words()):
            marks = ["-"] * len(part) if text.startswith("-") else [f"{count + i}." for i in range(len(part))]
            lines = "\n".join(f"{mark} {item}" for mark, item in zip(marks, part, strict=True))
            self.add("list", f"{lead}\n\n{lines}")
            count += len(part)
        self.note(text)

    def show(self, cell, prose):
        """A code cell: its figures, or what it printed if that answers a question or is a table of numbers."""
        text, figures = printed(cell), list(pictures(cell))
        lines, pre = text.splitlines(), self.hold(f"<pre>{html.escape(text)}</pre>")
        tabular = "  " in text and sum(bool(re.search(r"\d", line)) for line in lines) > 2
        fits = sum(-(-len(line) // COLUMNS) for line in lines) <= LINES
        asked, self.asked = self.asked, self.asked and not text and not figures
        for png, alt in figures:
            caption = self.lead if prose and self.lead else caption_of(alt)
            self.flush()
            width, height = struct.unpack(">II", base64.b64decode(png)[16:24])
            scale = min(WIDTH / width, HEIGHT / height)
            size = f'width="{round(scale * width)}" height="{round(scale * height)}"'
            image = f'<img src="data:image/png;base64,{png}" alt="{html.escape(alt)}" {size}>'
            self.add("figure", f"{self.hold(image)}\n\n{caption}")
        if not text or figures or not fits:
            self.note(pre)
        elif asked and re.search(r"\n|(?<!True)$", text):  # a single True is a check
            self.add("answer", pre)
        elif tabular and max(map(len, lines)) <= COLUMNS:
            lead = self.lead
            self.flush(lead)
            self.add("printed", f"{lead}\n\n{pre}")
        else:
            self.note(pre)
        self.lead = ""

    def page(self):
        """The presentation, one HTML file."""
        cells = []
        for kind, text, top, notes in self.slides:
            body = f'<div class="{kind}">\n\n{self.inline(text)}\n\n</div>'
            cells.append(self.cell(body, "slide" if top or not cells else "subslide"))
            cells += [self.cell("\n\n".join(map(self.inline, notes)), "notes")] if notes else []
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"title": self.slides[0][1].splitlines()[0][2:]})
        template = (HERE / "slides.html.j2").read_text(encoding="utf-8")
        exporter = SlidesExporter(raw_template=template, exclude_anchor_links=True)
        page, _ = exporter.from_notebook_node(notebook, {"parts": parts()})
        page = re.sub("<p>(\ue000\\d+\ue001)</p>", r"\1", page)  # what stands alone is a block
        while "\ue000" in page:  # what was held may hold more
            page = re.sub("\ue000(\\d+)\ue001", lambda found: self.held[int(found[1])], page)
        return page

    @staticmethod
    def cell(text, slide_type):
        return nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": slide_type}})


def parts():
    """What the template puts into each page."""
    files = [VENDOR / "reveal.css", HERE / "slides.css", VENDOR / "reveal.js", VENDOR / "notes.js"]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    texts["notes.js"] = re.sub("<(?=/?script|!--)", r"\\x3c", texts["notes.js"])  # strings must not end the script
    return texts | {"font": base64.b64encode((VENDOR / "noto-sans-math.woff2").read_bytes()).decode()}


def main():
    parser = argparse.ArgumentParser(description="Make the slides of chapters from their committed notebooks.")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help="chapters by number (03 04 07)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the HTML files (book/_static/slides)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        path = arguments.out / f"{name}.html"
        path.write_text(Deck(name).page(), encoding="utf-8", newline="\n")
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
