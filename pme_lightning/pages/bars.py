"""Charts of counts: upright bars, bars of named rows, small histograms side by side, and a density."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from pme_lightning.pages.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plane, marker, picture
from pme_lightning.pages.labels import shortened
from pme_lightning.pages.markup import Markup, join, number, tag
from pme_lightning.pages.scales import Axis, category_axis, linear_axis, percent

ROW_HEIGHT = 19.0
_ROWS_TOP = 28.0
_NAME_WIDTH, _NAME_LETTERS, _TEXT_WIDTH = 118.0, 17.0, 46.0
_SMALL_WIDTH, _SMALL_HEIGHT = 150.0, 74.0


def histogram(
    name: str, title: str, description: str, shares: Sequence[float], names: Sequence[str], label: str, unit: str
) -> Markup:
    """Returns upright bars, one a category.

    Args:
        name: As in :func:`~pme_lightning.pages.charts.picture`, like the two after it.
        title: See there.
        description: See there.
        shares: A fraction for each category.
        names: What each category is called.
        label: What the categories are.
        unit: What the fractions are of.
    """
    categories = category_axis(label, names, most_ticks=17)
    plane = Plane(categories, linear_axis(unit, [0.0, *shares], low=0.0, percent=True))
    width = (WIDTH - LEFT - RIGHT) / len(shares)
    bars = []
    for i, share in enumerate(shares):
        x, y = plane.at(i, share)
        # What is there at all can be seen.
        height = max(HEIGHT - BOTTOM - y, 1.0 if share > 0 else 0.0)
        tooltip = tag("title", f"{label} {names[i]}: {percent(share)} {unit}")
        thick = max(width * 0.82, width - 2)
        bars.append(
            tag("rect", tooltip, x=x - thick / 2, y=HEIGHT - BOTTOM - height, width=thick, height=height, class_="bar")
        )
    labelled = f"{title}; {unit} over {label}"
    group = tag("g", *bars, class_="s0")
    return picture(name, labelled, description, plane.frame(), group, width=WIDTH, height=HEIGHT)


def row_bars(
    name: str, title: str, description: str, rows: Sequence[tuple[str, float]], reference: tuple[float, str]
) -> Markup:
    """Returns lying bars from 0 to 100%, one a named row.

    Args:
        name: As in :func:`~pme_lightning.pages.charts.picture`, like the two after it.
        title: See there.
        description: See there.
        rows: A name and a fraction each.
        reference: A fraction to compare with, and what it is.
    """
    height = _ROWS_TOP + ROW_HEIGHT * len(rows)
    left, right = _NAME_WIDTH + 8, WIDTH - _TEXT_WIDTH
    parts = []
    for i, (row, share) in enumerate(rows):
        y = _ROWS_TOP - 2 + i * ROW_HEIGHT
        label = tag(
            "text", tag("title", row), shortened(row, _NAME_LETTERS), x=_NAME_WIDTH, y=y + 13, text_anchor="end"
        )
        whole = tag("rect", x=left, y=y + 3, width=right - left, height=ROW_HEIGHT - 6, class_="empty")
        part = tag("rect", x=left, y=y + 3, width=(right - left) * share, height=ROW_HEIGHT - 6, class_="bar")
        parts.append(join([label, whole, part, tag("text", percent(share), x=right + 5, y=y + 13)]))
    level, text = reference
    x = left + (right - left) * level
    anchor = "start" if level < 0.5 else "end"
    line = tag("path", d=f"M{number(x)} {number(_ROWS_TOP - 10)}V{number(height)}", class_="reference")
    note = tag("text", text, x=x + (4 if level < 0.5 else -4), y=_ROWS_TOP - 7, text_anchor=anchor, class_="note")
    group = tag("g", *parts, class_="s0")
    return picture(name, title, description, group, line, note, width=WIDTH, height=height + 4)


def small_histogram(name: str, title: str, counts: Sequence[int]) -> Markup:
    """Returns a histogram of sizes 0 ... ``D`` to be set beside others.

    Heights are square roots of shares, so that few tokens of a size can be seen beside very many of another; the
    highest bar is as high as the picture.

    Args:
        name: As in :func:`~pme_lightning.pages.charts.picture`.
        title: What is shown.
        counts: ``D + 1`` of them.
    """
    total, most = sum(counts) or 1, max(counts) or 1
    width = _SMALL_WIDTH / len(counts)
    base = _SMALL_HEIGHT - 14
    bars = []
    for size, count in enumerate(counts):
        height = base * 0.96 * sqrt(count / most)
        if height:
            tooltip = tag("title", f"size {size}: {percent(count / total)} of {total:,} tokens")
            thick = max(width * 0.8, width - 2)
            bars.append(
                tag(
                    "rect",
                    tooltip,
                    x=size * width + (width - thick) / 2,
                    y=base - height,
                    width=thick,
                    height=height,
                    class_="bar",
                )
            )
    last = len(counts) - 1
    labels = [
        tag("text", "0", x=1, y=_SMALL_HEIGHT - 2, text_anchor="start"),
        tag("text", str(last), x=_SMALL_WIDTH - 1, y=_SMALL_HEIGHT - 2, text_anchor="end"),
    ]
    line = tag("path", d=f"M0 {number(base)}H{number(_SMALL_WIDTH)}", class_="axis")
    listed = ", ".join(f"{percent(count / total)} of size {size}" for size, count in enumerate(counts) if count)
    group = tag("g", *bars, class_="s0")
    return picture(name, title, f"{listed}.", group, line, *labels, width=_SMALL_WIDTH, height=_SMALL_HEIGHT)


def density(
    name: str,
    title: str,
    description: str,
    columns: Sequence[Sequence[int]],
    names: Sequence[str],
    label: str,
    means: Sequence[float | None],
) -> Markup:
    """Returns one column a category, in which a size is the darker, the more of the column's tokens have it.

    Args:
        name: As in :func:`~pme_lightning.pages.charts.picture`, like the two after it.
        title: See there.
        description: See there.
        columns: For each category the counts of the sizes 0 ... ``D``.
        names: What each category is called.
        label: What the categories are.
        means: The mean size in each category, drawn as a line; ``None`` where it has no tokens.
    """
    D = len(columns[0]) - 1
    x = category_axis(label, names, most_ticks=8)
    sizes = linear_axis("size", [0.0, float(D)], whole=True)
    plane = Plane(x, Axis("size", -0.5, D + 0.5, ticks=[t for t in sizes.ticks if t <= D], format=sizes.format))
    cells: list[Markup] = []
    for i, counts in enumerate(columns):
        cells += _cells(plane, i, len(columns), counts, label, names[i])
    points = [(float(i), mean) for i, mean in enumerate(means) if mean is not None]
    places = [plane.at(*point) for point in points]
    line = "M" + "L".join(f"{number(a)} {number(b)}" for a, b in places) if places else "M0 0"
    marks = [tag("path", d=marker(0, *place, r=2.6), class_="marker") for place in places]
    mean = tag("g", tag("path", d=line, class_="line"), *marks, class_="s1")
    labelled = f"{title}; size over {label}"
    drawn = tag("g", *cells, class_="s0")
    return picture(name, labelled, description, plane.frame(), drawn, mean, width=WIDTH, height=HEIGHT)


def _cells(plane: Plane, column: int, columns: int, counts: Sequence[int], label: str, name: str) -> list[Markup]:
    """Returns a cell for each size that tokens of a column have."""
    width = (WIDTH - LEFT - RIGHT) / columns
    height = (HEIGHT - TOP - BOTTOM) / len(counts)
    total = sum(counts)
    cells = []
    for size, count in enumerate(counts):
        if count:
            x, y = plane.at(column, size)
            title = tag("title", f"{label} {name}: {percent(count / total)} of {total:,} tokens have size {size}")
            place: dict[str, float] = {"x": x - width / 2, "y": y - height / 2, "width": width, "height": height}
            cells.append(tag("rect", title, **place, fill_opacity=max(0.06, sqrt(count / total)), class_="cell"))
    return cells


def density_legend() -> Markup:
    """Returns what the shades and the line of :func:`density` are."""
    shades = [
        tag("rect", x=i * 7, y=2, width=7, height=12, fill_opacity=opacity, class_="cell")
        for i, opacity in enumerate((0.1, 0.35, 0.65, 1.0))
    ]
    shade = tag("svg", *shades, viewBox="0 0 28 16", aria_hidden="true", class_="key s0")
    line = [tag("path", d="M1 8H27", class_="line"), tag("path", d=marker(0, 14, 8, r=2.6), class_="marker")]
    mean = tag("svg", *line, viewBox="0 0 28 16", aria_hidden="true", class_="key s1")
    return tag("ul", tag("li", shade, "few to all tokens of a column"), tag("li", mean, "mean size"), class_="legend")
