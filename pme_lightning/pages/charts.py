"""Charts as inline SVG, each as wide as a phone, so that their letters are as large there as on a desk.

Colours are classes of the page's style sheet (``s0`` ... ``s6``): they follow light and dark. What differs in colour
differs in shape too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pme_lightning.pages.labels import Labels
from pme_lightning.pages.markup import Markup, join, number, tag
from pme_lightning.pages.scales import Axis

WIDTH, HEIGHT = 400.0, 264.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 20.0, 26.0, 42.0
COLOURS = 7
_DASHES = (None, "7 4", "2 3", "9 3 2 3")
_SHAPES = 6


@dataclass(frozen=True)
class Series:
    """One line or cloud of points.

    Attributes:
        name: For the legend and for the tooltips of points.
        points: ``(x, y)``.
        style: A number that colour, dashes and shape follow from.
        line: Whether points are joined.
        markers: Whether points are marked.
        steps: Whether a value holds until the next, instead of going there straight.
        labels: A text beside each point; empty for none.
    """

    name: str
    points: list[tuple[float, float]]
    style: int = 0
    line: bool = True
    markers: bool = True
    steps: bool = False
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plane:
    """The area of a chart between its axes."""

    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns where a point lies on the picture."""
        across = LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM)

    def frame(self) -> Markup:
        """Returns grid lines, ticks and labels."""
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts: list[Markup] = []
        for tick in self.y.ticks:
            _, y = self.at(self.x.low, tick)
            parts.append(tag("path", d=f"M{number(LEFT)} {number(y)}H{number(right)}", class_="grid"))
            parts.append(tag("text", self.y.format(tick), x=LEFT - 6, y=y + 4, text_anchor="end"))
        for tick in self.x.ticks:
            x, _ = self.at(tick, self.y.low)
            parts.append(tag("path", d=f"M{number(x)} {number(bottom)}v4", class_="axis"))
            parts.append(tag("text", self.x.format(tick), x=x, y=bottom + 17, text_anchor="middle"))
        parts.append(tag("path", d=f"M{number(LEFT)} {number(bottom)}H{number(right)}", class_="axis"))
        parts.append(tag("text", self.y.label, x=4, y=12, class_="label"))
        middle = (LEFT + right) / 2
        parts.append(tag("text", self.x.label, x=middle, y=HEIGHT - 6, text_anchor="middle", class_="label"))
        return join(parts)


def picture(name: str, title: str, description: str, *parts: Markup, width: float, height: float) -> Markup:
    """Returns the ``svg`` element around the parts of a picture, with its text alternatives.

    Args:
        name: Unique in the page; identifiers are made of it.
        title: What is shown, in a few words.
        description: What there is to see, for those who do not see it.
        parts: The picture.
        width: Of the drawing, in its own units.
        height: The same.
    """
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-description"),
        *parts,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-description",
    )


def line_chart(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    references: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Returns lines, or points, over two axes.

    Args:
        name: As in :func:`picture`, like the two after it.
        title: See there.
        description: See there.
        series: What is drawn, the last on top.
        x: The axis across.
        y: The axis upward.
        references: Levels to compare with: ``(y, what it is)``, each a dashed line with its name.
    """
    plane = Plane(x, y)
    parts = [plane.frame()]
    lines = [[plane.at(*point) for point in each.points] for each in series]
    levels = [(plane.at(x.low, level)[1], text) for level, text in references if y.low <= level <= y.high]
    frame = (LEFT, TOP - 12, WIDTH, HEIGHT - BOTTOM)
    labels = Labels(frame, [*lines, *([(LEFT, height), (WIDTH - RIGHT, height)] for height, _ in levels)])
    for height, _ in levels:
        parts.append(tag("path", d=f"M{number(LEFT)} {number(height)}H{number(WIDTH - RIGHT)}", class_="reference"))
    parts += [_drawn(each, places, plane) for each, places in zip(series, lines, strict=True)]
    # Texts come last: nothing is drawn over them.
    for height, text in levels:
        parts.append(_note(labels.along(height, text), text))
    for each, places in zip(series, lines, strict=True):
        for place, text in zip(places, each.labels, strict=False):
            if text:
                parts.append(_note(labels.beside(*place, text), text))
    labelled = f"{title}; {y.label} over {x.label}"
    return picture(name, labelled, description, *parts, width=WIDTH, height=HEIGHT)


def _note(place: tuple[float, float], text: str) -> Markup:
    return tag("text", text, x=place[0], y=place[1], class_="note")


def _drawn(series: Series, places: Sequence[tuple[float, float]], plane: Plane) -> Markup:
    parts: list[Markup] = []
    if series.line and len(places) > 1:
        d = f"M{_point(places[0])}"
        for _, after in pairwise(places):
            d += (f"H{number(after[0])}" if series.steps else "") + f"L{_point(after)}"
        parts.append(tag("path", d=d, class_="line", stroke_dasharray=_dashes(series)))
    if series.markers or len(places) == 1:
        for i, (point, place) in enumerate(zip(series.points, places, strict=True)):
            label = series.labels[i] if series.labels else ""
            tooltip = f"{series.name}{' ' + label if label else ''}: {plane.x.format(point[0])}, {point[1]:.4g}"
            parts.append(tag("path", tag("title", tooltip), d=marker(series.style, *place), class_="marker"))
    return tag("g", *parts, class_=f"s{series.style % COLOURS}")


def _dashes(series: Series) -> str | None:
    return _DASHES[series.style // COLOURS % len(_DASHES)]


def marker(style: int, x: float, y: float, r: float = 3.6) -> str:
    """Returns the path of a series' marker: its shape is another for each of the first styles."""
    shape = style % _SHAPES
    if shape == 0:
        return f"M{number(x - r)} {number(y)}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    if shape == 1:
        return f"M{number(x - r)} {number(y - r)}h{2 * r}v{2 * r}h{-2 * r}z"
    if shape == 2:
        return f"M{number(x)} {number(y - r - 1)}l{r + 1} {2 * r}h{-2 * (r + 1)}z"
    if shape == 3:
        return f"M{number(x)} {number(y - r - 1.2)}l{r + 1.2} {r + 1.2}l{-r - 1.2} {r + 1.2}l{-r - 1.2} {-r - 1.2}z"
    if shape == 4:
        return f"M{number(x)} {number(y + r + 1)}l{r + 1} {-2 * r}h{-2 * (r + 1)}z"
    return f"M{number(x - 1.4)} {number(y - r - 1)}h2.8v{r - 0.4}h{r - 0.4}v2.8h{-(r - 0.4)}v{r - 0.4}h-2.8" + (
        f"v{-(r - 0.4)}h{-(r - 0.4)}v-2.8h{r - 0.4}z"
    )


def legend(series: Sequence[Series]) -> Markup | None:
    """Returns what each series is, with its colour and its shape; nothing for one alone."""
    if len(series) < 2:
        return None
    entries = []
    for each in series:
        parts = []
        if each.line:
            parts.append(tag("path", d="M1 8H27", class_="line", stroke_dasharray=_dashes(each)))
        if each.markers:
            parts.append(tag("path", d=marker(each.style, 14, 8), class_="marker"))
        key = tag("svg", *parts, viewBox="0 0 28 16", aria_hidden="true", class_=f"key s{each.style % COLOURS}")
        entries.append(tag("li", key, each.name))
    return tag("ul", *entries, class_="legend")


def _point(place: tuple[float, float]) -> str:
    return f"{number(place[0])} {number(place[1])}"
