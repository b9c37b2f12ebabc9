"""Reads docstrings as they are written here: Google's sections, and mathematics in plain text.

Three habits that Sphinx and napoleon would take for markup of theirs:

- ``|s|`` is a norm, not the name of a substitution, ``**how`` are arguments, not the beginning of bold words, and
  ``--resume`` is an option, not a dash;
- a line of arguments that share a description may be continued on the next line;
- the text under a constant or a field is a text, even where it has a colon.

A cross-reference may be as short as it is clear: ``Philox.noise`` finds fastscore.Philox.noise, where nothing else is
called that. It may also use another name of the same thing: fastscore.trace.jacobian_trace is fastscore.jacobian_trace.
"""

from __future__ import annotations

import pydoc
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

_LITERAL = re.compile(r"(``.*?``)")
_NAMES = re.compile(r"\s+[\w, *]+,$")
_STARS = re.compile(r"(?<=[ (])\*{1,2}(?=[^\s*])(?!.*\*)")  # which nothing closes
_OPTION = re.compile(r"(?<![\w`-])--[a-z][\w-]*")
_untouched: dict[str, list[str]] = {}


def _escaped(part: str) -> str:
    if part.startswith("``"):
        return part
    part = _STARS.sub(lambda stars: stars[0].replace("*", r"\*"), part).replace("|", r"\|")
    return _OPTION.sub(r"``\g<0>``", part)


def before_napoleon(_: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape bars, join the names of arguments, and remember the text of a constant or a field."""
    joined: list[str] = []
    for line in lines:
        previous = joined[-1] if joined else ""
        deeper = len(line) - len(line.lstrip()) > len(previous) - len(previous.lstrip())
        if _NAMES.fullmatch(previous) and deeper and ": " in line:
            joined[-1] = f"{previous} {line.strip()}"
        else:
            joined.append(line)
    lines[:] = ["".join(map(_escaped, _LITERAL.split(line))) for line in joined]
    if what == "data" and obj is not None and obj.__doc__ == type(obj).__doc__:
        lines.clear()  # which describes dict, say, and not this one
    if what in ("attribute", "data", "property"):
        _untouched[name] = list(lines)


def after_napoleon(_: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo what napoleon made of the text of a constant or a field."""
    if name in _untouched:
        lines[:] = _untouched.pop(name)


def skip_fields(_: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave a named tuple's fields out, which its text describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def find_short(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.Element) -> nodes.Element | None:
    """Where a short or second name leads, if it leads to one place alone."""
    if node.get("refdomain") != "py" or not node.get("reftarget"):
        return None
    target, objects = node["reftarget"], env.domains["py"].objects
    found = {(entry.docname, entry.node_id) for name, entry in objects.items() if name.endswith(f".{target}")}
    if not found and (value := pydoc.locate(target)) is not None:
        last = target.split(".")[-1]
        found = {
            (entry.docname, entry.node_id)
            for name, entry in objects.items()
            if name.endswith(f".{last}") and pydoc.locate(name) is value
        }
    if len(found) != 1:
        return None
    ((page, anchor),) = found
    uri = app.builder.get_relative_uri(node.get("refdoc", env.docname), page)
    return nodes.reference("", "", content, internal=True, refuri=f"{uri}#{anchor}")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", find_short)
    return {"parallel_read_safe": True}
