"""What a report is made of, and how it is written: as Markdown, and as one HTML file that needs no other.

A report is a list of blocks. Their words are text, :class:`Code` and :class:`Link`, and each form escapes all of them.
"""

from __future__ import annotations

import base64
import html
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Code:
    """Words of a command, a path or a setting, to be shown as they are."""

    text: str


@dataclass(frozen=True)
class Link:
    """Words that lead to an https address."""

    text: str
    address: str


Words = str | Code | Link | tuple[str | Code | Link, ...]


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the page's."""

    words: Words
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Words under each other; a warning stands out."""

    words: Words
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as the head has; the first ``words`` columns are words, the others numbers."""

    head: tuple[Words, ...]
    rows: tuple[tuple[Words, ...], ...]
    words: int = 1


@dataclass(frozen=True)
class Picture:
    """A PNG file: where it is, its path from the report, in words what it shows, and whether it has small letters."""

    file: Path
    name: str
    says: str
    lettered: bool = False


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when their summary is asked for."""

    summary: str
    blocks: tuple[Paragraph | Table | Commands, ...]


Block = Heading | Paragraph | Table | Picture | Commands | Folded

_STYLE = """\
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #666; --line: #ccc; --shade: #f4f4f2; --warn: #8a5a00;
  --link: #2a5aa0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --paper: #16181b; --faint: #a0a0a0; --line: #444; --shade: #22252a; --warn: #e0a94a; --link: #8ab4f0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; } a { color: var(--link); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: normal; }
th { border-bottom: 2px solid var(--faint); } .number { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font-family: ui-monospace, monospace; font-size: .85rem; background: var(--shade); border-radius: 3px; }
code { padding: .1rem .25rem; } pre { padding: .6rem; white-space: pre-wrap; } pre code { padding: 0; }
figure { margin: 1rem 0; overflow-x: auto; } .plot img { max-width: none; width: max(100%, 58rem); } figcaption { color: var(--faint); font-size: .9rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.warning { border-left: 4px solid var(--warn); padding: .1rem .8rem; background: var(--shade); }
details { margin: 1rem 0; } summary { cursor: pointer; }
"""


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub's Markdown."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def page(blocks: Sequence[Block], title: str) -> str:
    """The blocks as an HTML page without scripts, the pictures inside it."""
    body = "\n".join(map(_html, blocks))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _spans(words: Words) -> tuple[str | Code | Link, ...]:
    return words if isinstance(words, tuple) else (words,)


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_in_markdown(block.words)}"
    if isinstance(block, Paragraph):
        return f"{'> **Note.** ' if block.warning else ''}{_in_markdown(block.words)}"
    if isinstance(block, Picture):
        return f"![{_plain(block.says)}]({urllib.parse.quote(block.name)})\n\n*{_plain(block.says)}*"
    if isinstance(block, Commands):
        text = "\n".join(block.lines)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        return f"{fence}sh\n{text}\n{fence}"
    if isinstance(block, Folded):
        inside = "\n\n".join(map(_markdown, block.blocks))
        return f"<details><summary>{html.escape(block.summary)}</summary>\n\n{inside}\n\n</details>"
    lines = [[_in_markdown(cell, table=True) for cell in row] for row in (block.head, *block.rows)]
    rule = ["---" if i < block.words else "---:" for i in range(len(block.head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _in_markdown(words: Words, table: bool = False) -> str:
    text = ""
    for span in _spans(words):
        if isinstance(span, Code):
            text += _code(span.text, table)
        elif isinstance(span, Link):
            text += f"[{_plain(span.text)}]({span.address})"
        else:
            text += _plain(span)
    return text


def _plain(text: str) -> str:
    """Text in which nothing is markup; an underscore inside a word is none."""
    text = re.sub(r"([\\`*\[\]|~$#]|(?<!\w)_|_(?!\w))", r"\\\1", re.sub(r"\s+", " ", text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str, table: bool) -> str:
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    text = text.replace("|", r"\|") if table else text  # which ends a cell, even in code
    return f"{fence}{space}{text}{space}{fence}"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return _tagged(f"h{block.level}", block.words)
    if isinstance(block, Paragraph):
        return _tagged("p", block.words, "warning" if block.warning else "")
    if isinstance(block, Picture):
        data, says = base64.b64encode(block.file.read_bytes()).decode(), html.escape(block.says)
        kind = ' class="plot"' if block.lettered else ""  # which a narrow screen scrolls and does not shrink
        image = f'<img src="data:image/png;base64,{data}" alt="{says}">'
        return f"<figure{kind}>{image}<figcaption>{says}</figcaption></figure>"
    if isinstance(block, Commands):
        text = "\n".join(block.lines)
        return f"<pre><code>{html.escape(text)}</code></pre>"
    if isinstance(block, Folded):
        inside = "\n".join(map(_html, block.blocks))
        return f"<details><summary>{html.escape(block.summary)}</summary>\n{inside}\n</details>"
    kinds = ["" if i < block.words else "number" for i in range(len(block.head))]
    head = "".join(_tagged("th", cell, kind) for cell, kind in zip(block.head, kinds))
    rows = ["".join(_tagged("td", cell, kind) for cell, kind in zip(row, kinds)) for row in block.rows]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def _tagged(tag: str, words: Words, kind: str = "") -> str:
    opening = f'<{tag} class="{kind}">' if kind else f"<{tag}>"
    return f"{opening}{_in_html(words)}</{tag}>"


def _in_html(words: Words) -> str:
    text = ""
    for span in _spans(words):
        if isinstance(span, Code):
            text += f"<code>{html.escape(span.text)}</code>"
        elif isinstance(span, Link):
            text += f'<a href="{html.escape(span.address)}">{html.escape(span.text)}</a>'
        else:
            text += html.escape(span)
    return text
