"""Carry a figure's alternative text from the notebook into the page.

`IPython.display.Image(png, alt="...")` stores the text in the output's metadata, where nbconvert reads it.
MyST-NB 1.x reads only width and height there, so its image renderer is wrapped here.
"""

from myst_nb.core.render import NbElementRenderer


def setup(app):
    """Sphinx entry point."""
    render_image = NbElementRenderer.render_image

    def render_image_with_alt(self, data):
        images = render_image(self, data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        if alt:
            images[0]["alt"] = alt
        return images

    NbElementRenderer.render_image = render_image_with_alt
    return {"parallel_read_safe": True, "parallel_write_safe": True}
