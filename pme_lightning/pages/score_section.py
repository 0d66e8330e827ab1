"""What the search decided by: how scores are spread over axes and values."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from pme_lightning.pages.bars import histogram
from pme_lightning.pages.charts import Series, line_chart
from pme_lightning.pages.elements import figure, section, table
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.scales import linear_axis, percent


def scores_of_run(scores: dict[str, Any], sizes: dict[str, Any], criterion: str) -> Markup:
    """Returns the section.

    Args:
        scores: As in ``findings.json``.
        sizes: The same, of each budget.
        criterion: What scored.
    """
    if not scores["curve"]:
        return section("Scores", tag("p", f"{criterion} gave no value a score above 0."))
    pictures = tag("div", _axes(scores), _curve(scores, sizes), class_="figures")
    said = tag("p", f"{criterion} scores every value of every token; the budget goes to the best.")
    return section("Scores", said, pictures)


def _axes(scores: dict[str, Any]) -> Markup:
    sums = [*scores["axes"], *([] if scores["first_order"] is None else [scores["first_order"]])]
    total = sum(sums) or 1.0
    names = [str(axis) for axis in range(1, len(scores["axes"]) + 1)]
    names += [] if scores["first_order"] is None else ["1st"]
    shares = [each / total for each in sums]
    said = f"The first of {len(scores['axes'])} axes holds {percent(shares[0])} of the sum of all scores"
    said += "." if scores["first_order"] is None else f", first-order weights (1st) {percent(shares[-1])}."
    numbers = table(
        ["axis", "score", "share"],
        [[name, f"{each:.4g}", f"{each / total:.2%}"] for name, each in zip(names, sums, strict=True)],
    )
    title = "Score of each axis"
    svg = histogram("scores-axes", title, said, shares, names, "axis", "of all scores")
    return figure(title, svg, said, numbers=numbers)


def _curve(scores: dict[str, Any], sizes: dict[str, Any]) -> Markup:
    points = [(fraction, share) for fraction, share, _ in scores["curve"]]
    marks = [(facts["kept"], _share_at(points, facts["kept"])) for facts in sizes.values()]
    half = next(fraction for fraction, share in points if share >= 0.5)
    said = f"Half of the sum of all scores lies in the best {percent(half)} of the values."
    series = [Series("best values", points, style=0, markers=False)]
    if marks:
        one = len(marks) == 1
        series.append(Series("kept", marks, 1, line=False, labels=["kept" if one else name for name in sizes]))
    x = linear_axis("values, the best first", [0.0, 1.0], low=0.0, high=1.0, percent=True)
    y = linear_axis("share of all scores", [0.0, 1.0], low=0.0, high=1.0, percent=True)
    title = "Scores held by the best values"
    rows = [[percent(f), percent(share), f"{lowest:.4g}"] for f, share, lowest in scores["curve"]]
    thinned = rows[:: max(1, len(rows) // 20)]
    numbers = table(["best values", "of all scores", "lowest score"], thinned)
    return figure(title, line_chart("scores-curve", title, said, series, x, y), said, numbers=numbers)


def _share_at(points: list[tuple[float, float]], fraction: float) -> float:
    """Returns the height of the curve at a fraction, straight between its points."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= fraction <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (fraction - x0) / (x1 - x0)
    return points[-1][1]
