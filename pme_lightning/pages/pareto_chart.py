"""Accuracy over what is kept of the embedding: the curve of one run, or of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pme_lightning.pages.charts import Series, legend, line_chart
from pme_lightning.pages.elements import figure
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.scales import linear_axis, log_axis, percent


@dataclass(frozen=True)
class Point:
    """A model that was measured.

    Attributes:
        label: What it is, in a word.
        kept: Fraction of the full-size embedding's bytes.
        auc: On the test split.
        logloss: On the test split.
    """

    label: str
    kept: float
    auc: float
    logloss: float


@dataclass(frozen=True)
class Curve:
    """The models of one run that belong together.

    Attributes:
        name: Of the run.
        points: Its models.
        style: A number that colour and shape follow from.
        joined: Whether a line goes from each to the next.
    """

    name: str
    points: list[Point]
    style: int
    joined: bool = True


def pareto_charts(name: str, curves: Sequence[Curve], full: Point | None, front: bool = False) -> Markup:
    """Returns two pictures: test AUC and test logloss over the fraction kept.

    Args:
        name: Unique in the page.
        curves: At least one, with at least one point in all.
        full: The full-size model to compare with, drawn as a level; ``None`` for none.
        front: Whether to draw the best that can be had at each size.
    """
    pictures = [_chart(name, curves, full, front, metric, better) for metric, better in (("AUC", 1), ("logloss", -1))]
    return tag("div", *pictures, class_="figures")


def pareto_front(points: Sequence[Point], metric: str, better: int) -> list[Point]:
    """Returns the points that no other beats at the same size or a smaller one, the smallest first.

    Args:
        points: To choose from.
        metric: ``auc`` or ``logloss``.
        better: 1 if more is better, -1 if less is.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.kept, -better * getattr(point, metric))):
        if not front or better * getattr(point, metric) > better * getattr(front[-1], metric):
            front.append(point)
    return front


def _chart(page_name: str, curves: Sequence[Curve], full: Point | None, front: bool, name: str, better: int) -> Markup:
    metric = name.lower()
    everything = [point for curve in curves for point in curve.points]
    series = [
        Series(
            curve.name,
            sorted((point.kept, getattr(point, metric)) for point in curve.points),
            curve.style,
            line=curve.joined and len(curve.points) > 1,
            labels=[point.label for point in sorted(curve.points, key=lambda p: (p.kept, getattr(p, metric)))],
        )
        for curve in curves
    ]
    drawn = list(series)
    best = pareto_front(everything, metric, better)
    if front and len(best) > 1:
        drawn.insert(0, Series("best at each size", [(p.kept, getattr(p, metric)) for p in best], 27, markers=False))
    values = [getattr(point, metric) for point in everything]
    x = log_axis("kept of the embedding's bytes (logarithmic)", [point.kept for point in everything], percent)
    y = linear_axis(f"test {name}", [*values, *([getattr(full, metric)] if full else [])])
    level = [(getattr(full, metric), f"full size {getattr(full, metric):.4f}")] if full else []
    top = (max if better > 0 else min)(everything, key=lambda point: getattr(point, metric))
    said = f"Best {name}: {getattr(top, metric):.4f} with {percent(top.kept)} kept"
    said += f" ({top.label})." if top.label else "."
    if full:
        said += f" The full-size model reaches {getattr(full, metric):.4f}."
    title = f"Test {name} over size"
    svg = line_chart(f"{page_name}-{metric}", title, said, drawn, x, y, level)
    return figure(title, svg, said, legend(drawn))
