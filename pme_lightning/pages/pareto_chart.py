"""Accuracy over what is kept of the embedding: the curve of one run, or of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pme_lightning.measures import MEASURES, Measure
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

    def value(self, measure: Measure) -> float:
        """Returns what a measure says of the model."""
        return getattr(self, measure.key)


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
    pictures = [_chart(name, curves, full, front, measure) for measure in MEASURES]
    return tag("div", *pictures, class_="figures")


def pareto_front(points: Sequence[Point], measure: Measure) -> list[Point]:
    """Returns the points that no other beats at the same size or a smaller one, the smallest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: point.kept):
        if front and not measure.beats(point.value(measure), front[-1].value(measure)):
            continue
        if front and front[-1].kept == point.kept:
            front.pop()
        front.append(point)
    return front


def _series(curve: Curve, measure: Measure) -> Series:
    points = sorted(curve.points, key=lambda point: (point.kept, point.value(measure)))
    return Series(
        curve.name,
        [(point.kept, point.value(measure)) for point in points],
        curve.style,
        line=curve.joined and len(points) > 1,
        labels=[point.label for point in points],
    )


def _chart(page_name: str, curves: Sequence[Curve], full: Point | None, front: bool, measure: Measure) -> Markup:
    everything = [point for curve in curves for point in curve.points]
    drawn = [_series(curve, measure) for curve in curves]
    best = pareto_front(everything, measure)
    if front and len(best) > 1:
        drawn.insert(0, Series("best at each size", [(p.kept, p.value(measure)) for p in best], 27, markers=False))
    x = log_axis("kept of the embedding's bytes (logarithmic)", [point.kept for point in everything], percent)
    values = [point.value(measure) for point in [*everything, *([full] if full else [])]]
    y = linear_axis(f"test {measure.label}", values)
    level = [(full.value(measure), f"full size {full.value(measure):.4f}")] if full else []
    top = measure.best(everything, key=lambda point: point.value(measure))
    caption = f"Best {measure.label}: {top.value(measure):.4f} with {percent(top.kept)} kept"
    caption += f" ({top.label})." if top.label else "."
    if full:
        caption += f" The full-size model reaches {full.value(measure):.4f}."
    title = f"Test {measure.label} over size"
    svg = line_chart(f"{page_name}-{measure.key}", title, caption, drawn, x, y, level)
    return figure(title, svg, caption, legend(drawn))
