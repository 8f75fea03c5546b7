"""Keep a percent sign on the line of its number: `69.41 %` is written with a space that may not break."""

import re

from docutils import nodes
from sphinx.transforms import SphinxTransform

VERBATIM = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)


class PercentTransform(SphinxTransform):
    """Replace the space between a digit and a percent sign by a no-break space, in text that is not verbatim."""

    default_priority = 950

    def apply(self, **kwargs):
        for text in list(self.document.findall(nodes.Text)):
            kept = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)
            if kept != text and not isinstance(text.parent, VERBATIM):
                text.parent.replace(text, nodes.Text(kept))


def setup(app):
    """Sphinx entry point."""
    app.add_transform(PercentTransform)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
