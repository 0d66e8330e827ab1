"""From values to places on an axis, and the round values that are written along it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Format = Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: What is along it, with its unit.
        low: The value at its beginning.
        high: The value at its end; above ``low``.
        log: Whether equal steps are equal factors; ``low`` is then above 0.
        ticks: The values that are written, in rising order.
        format: Writes a value.
    """

    label: str
    low: float
    high: float
    log: bool = False
    ticks: list[float] = field(default_factory=list)
    format: Format = str

    def place(self, value: float) -> float:
        """Returns where a value lies: 0 at the beginning, 1 at the end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(
    label: str,
    values: Sequence[float],
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
    percent: bool = False,
) -> Axis:
    """Returns an axis that has all values on it, with round ends and ticks.

    Args:
        label: What is along it.
        values: What must be on it; may be empty.
        low: Where it begins, whatever the values; ``None``: at a round value below them.
        high: Where it ends; ``None``: at a round value above them.
        whole: Whether only whole numbers make sense.
        percent: Whether values are fractions that are written as percentages.
    """
    least = min(values, default=0.0) if low is None else low
    most = max(values, default=1.0) if high is None else high
    if most <= least:
        # One value alone: some room on both sides, of which the last digits can be told apart.
        room = 1.0 if whole else max(abs(least) * 0.01, 1e-4)
        least, most = (least - room if low is None else least), (max(most, least) + room)
    step = round_step((most - least) / 4)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.floor(least / step + 1e-9) if low is None else math.ceil(least / step - 1e-9)
    last = math.ceil(most / step - 1e-9) if high is None else math.floor(most / step + 1e-9)
    ticks = [i * step for i in range(first, last + 1)]
    return Axis(
        label,
        ticks[0] if low is None else low,
        ticks[-1] if high is None else most,
        ticks=ticks,
        format=_decimals(step * 100 if percent else step, percent),
    )


def category_axis(label: str, names: Sequence[str], most_ticks: int, margin: float = 0.5) -> Axis:
    """Returns an axis with the categories 0, 1, ... on it.

    Args:
        label: What the categories are.
        names: What each is called.
        most_ticks: How many names there is room for.
        margin: How far the axis goes on beside the first and the last.
    """
    every = max(1, -(-len(names) // most_ticks))
    ticks = [float(i) for i in range(0, len(names), every)]
    return Axis(label, -margin, len(names) - 1 + margin, ticks=ticks, format=lambda i: names[int(i)])


def log_axis(label: str, values: Sequence[float], format: Format, high: float | None = None) -> Axis:
    """Returns a logarithmic axis that has all values on it, with ticks at 1, 2, 5 and their tenfolds.

    Args:
        label: What is along it.
        values: Above 0; at least one.
        format: Writes a value.
        high: Where it ends; ``None``: somewhat above the values.
    """
    least = min(values) / 1.25
    most = max(values) * 1.25 if high is None else high
    decades = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2)
    round_values = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    ticks = [tick for tick in round_values if least <= tick <= most * (1 + 1e-9)]
    if len(ticks) < 2:
        # Nothing round is near: the axis reaches out to what is.
        least = max(tick for tick in round_values if tick <= least)
        most = min(tick for tick in round_values if tick >= most) if high is None else high
        ticks = [tick for tick in round_values if least <= tick <= most]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    return Axis(label, least, most, log=True, ticks=ticks, format=format)


def round_step(step: float) -> float:
    """Returns the nearest of 1, 2, 2.5, 5 and their tenfolds that is not below ``step``.

    >>> round_step(0.03), round_step(7), round_step(0.24)
    (0.05, 10.0, 0.25)
    """
    unit = 10.0 ** math.floor(math.log10(step))
    factor = next(f for f in (1, 2, 2.5, 5, 10) if f * unit >= step * (1 - 1e-9))
    return float(f"{factor * unit:.12g}")


def short_count(value: float) -> str:
    """Returns a count as it fits an axis.

    >>> short_count(999), short_count(1024), short_count(65_536), short_count(10_000_000)
    ('999', '1k', '66k', '10M')
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.0f}{letter}"
    return f"{value:.0f}"


def percent(value: float) -> str:
    """Returns a fraction as a percentage with as many digits as tell.

    >>> percent(0.2), percent(0.055), percent(0.0012), percent(1), percent(0), percent(4e-8)
    ('20%', '5.5%', '0.12%', '100%', '0%', '<0.0001%')
    """
    if 0 < value < 1e-6:
        return "<0.0001%"
    return f"{value * 100:.2g}%" if value < 0.995 else f"{value * 100:.0f}%"


def _decimals(step: float, percent: bool) -> Format:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits < 9 and not math.isclose(step * 10**digits, round(step * 10**digits), abs_tol=1e-6):
        digits += 1

    def written(value: float) -> str:
        if percent:
            return f"{value * 100:.{digits}f}%"
        # Beside an axis there is room for so many.
        return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"

    return written
