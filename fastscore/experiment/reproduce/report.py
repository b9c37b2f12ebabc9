"""The report of a reproduction: report.md and report.html, of whatever is known so far."""

from __future__ import annotations

from pathlib import Path

from ..._core import files
from . import report_facts, report_page, report_pictures, report_sections

MARKDOWN, PAGE = "report.md", "report.html"


def write_report(out: Path) -> list[Path]:
    """Write report.md, report.html and their pictures of what lies in ``out``, whatever of it is there.

    The page holds its pictures and needs no other file; report.md shows those in ``out``/report. The same folder gives the
    same report. Without matplotlib the report has no pictures, and says what to install; a file that cannot be read is
    named in it.

    Args:
        out: the folder of ``fastscore reproduce``.

    Returns:
        report.md, report.html, and the pictures that they show.

    Raises:
        CannotWrite: a file cannot be written.
    """
    facts = report_facts.read(out)
    files.clear_leftovers(out / report_pictures.FOLDER)
    pictures, faults = report_pictures.draw(facts)
    title, blocks = report_sections.title(facts), report_sections.blocks(facts, pictures, faults)
    for name, text in ((PAGE, report_page.page(blocks, title)), (MARKDOWN, report_page.markdown(blocks))):
        files.write_atomically(out / name, text.encode("utf-8", "backslashreplace"))
    return [out / MARKDOWN, out / PAGE, *(picture.file for picture in pictures.values())]
