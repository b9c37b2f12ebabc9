"""The directive ``generated``: a page's part that is made while the site is built, so that it cannot go stale.

``{generated} NAME [ARGUMENT ...]`` includes the Markdown that the function NAME of tables.py (measured numbers) or
contents.py (what the library itself lists) gives. When the site is built, a public name that no page documents is a warning.
"""

from __future__ import annotations

from typing import Any

import contents
import tables
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """``{generated} NAME [ARGUMENT ...]``."""

    required_arguments = 1
    optional_arguments = 2

    def run(self) -> list[nodes.Node]:
        name, *rest = self.arguments
        function = getattr(contents, name, None) or getattr(tables, name)
        self.env.note_reread()
        return self.parse_text_to_nodes(function(*rest))


def check_names(app: Sphinx, error: Exception | None) -> None:
    """Warn of public names that no page documents."""
    if error is None and app.builder.name == "html":
        public, found = contents.public_names(), app.env.domains["py"].objects
        documented = {id(value) for name, value in public.items() if name in found}  # one thing may have two names
        for name, value in public.items():
            if id(value) not in documented:
                logging.getLogger(__name__).warning("%s is public, and no page of the reference documents it", name)


def show_as_shell(_: Sphinx, doctree: nodes.document) -> None:
    """A tutorial's ``%%bash`` cells as a reader would type them."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext()
        if text.startswith("%%bash\n"):
            block[:] = [nodes.Text(text.removeprefix("%%bash\n"))]
            block["language"] = "sh"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("generated", Generated)
    app.connect("doctree-read", show_as_shell)
    app.connect("build-finished", check_names)
    return {"parallel_read_safe": True}
