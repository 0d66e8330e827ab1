"""Places for labels beside points, where they cover as little as possible."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from unicodedata import east_asian_width

Place = tuple[float, float]
Box = tuple[float, float, float, float]

# Of a label's letters, in units of the drawing.
_LETTER, _HEIGHT = 6.4, 12.0
_GAP = 6.0
_SAMPLES = 24


def letters(text: str) -> float:
    """Returns how wide a text is, in letters of middling width.

    >>> letters("size"), letters("WW"), letters("漢字")
    (4.0, 4.0, 4.0)
    """
    return sum(
        2.0
        if each == "W" or east_asian_width(each) in "WF"
        else 1.7
        if each in "mwM@%"
        else 1.2
        if each.isupper()
        else 1.0
        for each in text
    )


def shortened(text: str, width: float) -> str:
    """Returns as much of a text as fits into so many letters of middling width.

    >>> shortened("a_rather_long_name", 9)
    'a_rather…'
    """
    if letters(text) <= width:
        return text
    while letters(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


class Labels:
    """Puts labels on a picture one after the other.

    Args:
        frame: Left, top, right and bottom of where labels may be.
        lines: What is drawn there, as polylines; labels keep off it where they can.
    """

    def __init__(self, frame: Box, lines: Sequence[Sequence[Place]]) -> None:
        self._frame = frame
        self._taken: list[Place] = [place for line in lines for place in _along(line)]
        self._boxes: list[Box] = []

    def beside(self, x: float, y: float, text: str) -> Place:
        """Returns where the text begins on its base line, to be beside a point."""
        width = _LETTER * letters(text)
        right, left, middle = x + _GAP, x - _GAP - width, x - width / 2
        above, below, level = y - _GAP, y + _GAP + _HEIGHT - 3, y + 4
        corners = [(right, below), (right, above), (left, above), (left, below)]
        return self._best(
            [*corners, (middle, above - 2), (middle, below + 2), (right + 2, level), (left - 2, level)], width
        )

    def along(self, y: float, text: str) -> Place:
        """Returns where the text begins on its base line, to be above or below a level."""
        width = _LETTER * letters(text)
        start, end = self._frame[0] + 6, self._frame[2] - width - 4
        spots = [start, (start + end) / 2, end]
        return self._best([(x, base) for x in spots for base in (y - 5, y + _HEIGHT + 1)], width)

    def _best(self, candidates: Sequence[Place], width: float) -> Place:
        """Takes the first of those that cover least."""
        x, base = min(candidates, key=lambda place: self._covered(_box(place, width)))
        self._boxes.append(_box((x, base), width))
        return x, base

    def _covered(self, box: Box) -> float:
        left, top, right, bottom = self._frame
        outside = (
            max(0.0, left - box[0]) + max(0.0, box[2] - right) + max(0.0, top - box[1]) + max(0.0, box[3] - bottom)
        )
        points = sum(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in self._taken)
        texts = sum(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in self._boxes
        )
        return 1000 * outside + 50 * texts + points


def _box(place: Place, width: float) -> Box:
    x, base = place
    return x, base - _HEIGHT + 2, x + width, base + 3


def _along(line: Sequence[Place]) -> list[Place]:
    """Returns points along a polyline, close to one another."""
    if len(line) == 1:
        return list(line)
    return [
        (a[0] + (b[0] - a[0]) * i / _SAMPLES, a[1] + (b[1] - a[1]) * i / _SAMPLES)
        for a, b in pairwise(line)
        for i in range(_SAMPLES + 1)
    ]
