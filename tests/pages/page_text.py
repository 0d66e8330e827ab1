"""Reads a page back: what a reader finds in it, without a browser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "br", "hr", "link", "img"}


class Page(HTMLParser):
    """A page, taken apart.

    Attributes:
        tables: Rows of cells of each table.
        text: All that is written outside tables, pictures and style sheet.
        names: How often each element occurs.
        headings: What each section is called.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.headings: list[str] = []
        self.names: dict[str, int] = {}
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == [], "elements are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] = self.names.get(tag, 0) + 1
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "table" in self._open:
            self.tables[-1][-1][-1] += data
        elif "svg" not in self._open and "style" not in self._open:
            self.text += data
        if self._open and self._open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data

    def table(self, *header: str) -> list[dict[str, str]]:
        """Returns the rows of the table whose header begins so, by the names of its columns."""
        (found,) = [table for table in self.tables if table[0][: len(header)] == list(header)]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]
