"""The parts that pages are built of: the document, sections, figures with their numbers, tables."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence

from pme_lightning.pages.markup import Child, Markup, join, tag
from pme_lightning.version import __version__

# By this a page of ours is told from a file of somebody else.
GENERATOR = "PME Lightning"


def document(title: str, *body: Child) -> str:
    """Returns a whole page, with its style sheet in it; it loads nothing from anywhere."""
    style = importlib.resources.files("pme_lightning.pages").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        # A browser would ask for one.
        Markup('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Markup(style)),
    )
    footer = tag("footer", f"Made by {GENERATOR} {__version__}. This file is whole: it loads nothing.")
    return f'<!doctype html>\n<html lang="en">{head}\n{tag("body", tag("main", *body, footer))}</html>\n'


def section(heading: str, *children: Child) -> Markup:
    """Returns a section; nothing in it but ``None`` makes it empty."""
    if all(child is None for child in children):
        return Markup("")
    return tag("section", tag("h2", heading), *children)


def figure(
    heading: str, svg: Markup, caption: str = "", legend: Markup | None = None, numbers: Markup | None = None
) -> Markup:
    """Returns a picture with its heading, its legend, what it says, and its numbers folded away below it."""
    below = tag("figcaption", caption) if caption else None
    folded = None if numbers is None else details("the numbers", numbers)
    return tag("figure", tag("h3", heading), svg, legend, below, folded)


def details(summary: str, *children: Child) -> Markup:
    """Returns what is folded away until it is asked for, and is there in print."""
    return tag("details", tag("summary", summary), *children)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Child]],
    caption: str | None = None,
    text_columns: Sequence[int] = (),
    best: Sequence[tuple[int, int]] = (),
    compact: bool = False,
) -> Markup:
    """Returns a table that scrolls by itself where the screen is narrower.

    Args:
        header: The names of the columns.
        rows: The cells, the first of each row its name.
        caption: What the table shows.
        text_columns: Columns of words, which are not set like numbers and may wrap.
        best: Cells to point out, ``(row, column)``.
        compact: Whether lines stand close together.
    """

    def kind(row: int, column: int) -> str | None:
        classes = (["text", "wrap"] if column in text_columns else []) + (["best"] if (row, column) in best else [])
        return " ".join(classes) or None

    head = tag(
        "tr",
        *(
            tag("th", name, scope="col", class_="text" if i in (0, *text_columns) else None)
            for i, name in enumerate(header)
        ),
    )
    lines = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=kind(r, 0)),
            *(tag("td", cell, class_=kind(r, c)) for c, cell in enumerate(row[1:], start=1)),
        )
        for r, row in enumerate(rows)
    ]
    whole = tag("table", tag("thead", head), tag("tbody", join(lines)), class_="compact" if compact else None)
    # A region that scrolls must be reachable with the keyboard; the caption stays where it is.
    region = tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")
    return region if caption is None else tag("div", tag("p", caption, class_="caption"), region)


def tiles(entries: Sequence[tuple[str, str, str]]) -> Markup:
    """Returns the few figures that matter most: a name, a value, and what it compares with."""
    boxes = [
        tag("div", tag("dt", name), tag("dd", value), tag("dd", note) if note else None, class_="tile")
        for name, value, note in entries
    ]
    return tag("dl", *boxes, class_="tiles")


def metric(value: float | None, signed: bool = False) -> str:
    """Returns an AUC or a logloss with four digits, or a dash."""
    return "-" if value is None else f"{value:+.4f}" if signed else f"{value:.4f}"
