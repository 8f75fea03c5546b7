"""Figures that a reader can move, in the page itself: plain JavaScript and SVG, with no kernel and no network.

`show("name", ...)` puts js/base.js, js/name.js and their data into one block of HTML. It works in the built book,
from a file, in Jupyter and in Colab. A still picture stands there until the script has drawn.
"""

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:  # matplotlib and seaborn take seconds to import, and whoever needs `pack` alone need not wait
    from matplotlib.figure import Figure

JS = Path(__file__).parent / "js"
# The same ten lines around every figure. Each script sees `ui` (js/base.js) and `data`.
BLOCK = """<div class="mifad-figure follows-theme" id="mifad-{name}" role="group" aria-label="{alt}">
<style>{css}</style>
<img class="still" alt="{alt}" src="data:image/png;base64,{still}">
<script type="application/json">{data}</script>
<script>(() => {{
{base}
const ui = makeUI(document.getElementById("mifad-{name}"));
const data = ui.data;
{script}
ui.ready();
}})();</script>
</div>"""


def pack(values: np.ndarray | Tensor, low: float = 0.0, high: float = 1.0) -> str:
    """Values in [low, high], any shape -> base64 of one byte each, row by row; `ui.unpack` reads it. Clips the rest."""
    steps = (np.asarray(values, dtype=np.float64) - low) * (255 / (high - low))
    return base64.b64encode(np.clip(np.rint(steps), 0, 255).astype(np.uint8).tobytes()).decode()


def block(name: str, data: dict, still: "Figure", alt: str, dpi: int = 90) -> str:
    """The HTML of the interactive figure `name`, a file in mifad_lite/js without its ending.

    data: what the script reads, JSON-able.  still: shown where scripts do not run; it is closed.  alt: what there is
    to see, in words.  Raises ValueError for an unknown name, an empty `alt` or a number in `data` that is not finite.
    """
    from .plots import png

    script = JS / f"{name}.js"
    if not script.is_file():
        known = ", ".join(sorted(p.stem for p in JS.glob("*.js") if p.stem != "base"))
        raise ValueError(f"there is no interactive figure {name!r}: choose one of {known}")
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows to someone who cannot see it")
    return BLOCK.format(
        name=name,
        alt=html.escape(alt),
        css=(JS / "base.css").read_text("utf8"),
        still=base64.b64encode(png(still, dpi)).decode(),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        base=(JS / "base.js").read_text("utf8"),
        script=script.read_text("utf8"),
    )


def show(name: str, data: dict, still: "Figure", alt: str, dpi: int = 90) -> None:
    """Display the interactive figure `name` in a notebook. Arguments and errors as in `block`."""
    from IPython.display import display

    display({"text/html": block(name, data, still, alt, dpi), "text/plain": alt}, raw=True)
