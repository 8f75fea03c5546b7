"""Keep the words of a shell command whole: `--data` does not end a line after its hyphens, nor `runs/x` after the bar.

custom.css lets a long command go on in the next line, and gives the class `whole` to no line break. Nothing is added to
the text, so what is copied is what was written.
"""

import re

COMMAND = re.compile(r'(<div class="highlight-bash .*?<pre>)(.*?)(</pre>)', re.DOTALL)
WORD = re.compile(r"(?<![^\s>])[^\s<>]*[-/][^\s<>]*(?![^<]*>)")  # the text between tags, not what a tag holds


def keep_words(app, pagename, templatename, context, doctree):
    """Wrap each word with a hyphen or a slash in the page's commands."""
    if "body" in context:
        context["body"] = COMMAND.sub(
            lambda command: command[1] + WORD.sub(r'<span class="whole">\g<0></span>', command[2]) + command[3],
            context["body"],
        )


def setup(app):
    """Sphinx entry point."""
    app.connect("html-page-context", keep_words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
