"""How the search went: how its scores are spread over axes and values, and how far it had pruned when."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from pme_lightning.pages.bars import histogram
from pme_lightning.pages.charts import Series, line_chart
from pme_lightning.pages.elements import figure, section, table
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.scales import linear_axis, log_axis, percent
from pme_lightning.pages.training_section import epochs

# Where half of all scores lie in fewer of the values than this, the picture of their spread is logarithmic.
_STEEP = 0.02


def search_of_run(
    search: dict[str, Any], schedule: list[list[float]], scores: dict[str, Any] | None, sizes: dict[str, Any]
) -> Markup:
    """Returns the section.

    Args:
        search: The block of ``summary.json``.
        schedule: As in ``findings.json``; empty where nothing is known of it.
        scores: The same; ``None`` where nothing is known of them.
        sizes: The same, of each budget.
    """
    scored = bool(scores and scores["curve"])
    pictures = [
        _axes(scores) if scores and scored else None,
        _curve(scores, sizes) if scores and scored else None,
        _schedule(schedule, search) if schedule and search["epochs"] else None,
    ]
    text = f"{search['criterion']} scored every value of every token, and the budget went to the best"
    text += f": {epochs(search['epochs'])} of search in {search['seconds']:.1f} seconds."
    return section("Search", tag("p", text), tag("div", *pictures, class_="figures"))


def _axes(scores: dict[str, Any]) -> Markup:
    sums = [*scores["axes"], *([] if scores["first_order"] is None else [scores["first_order"]])]
    total = sum(sums) or 1.0
    names = [str(axis) for axis in range(1, len(scores["axes"]) + 1)]
    names += [] if scores["first_order"] is None else ["1st"]
    shares = [each / total for each in sums]
    caption = f"The first of {len(scores['axes'])} axes holds {percent(shares[0])} of the sum of all scores"
    caption += "." if scores["first_order"] is None else f", first-order weights (1st) {percent(shares[-1])}."
    numbers = table(
        ["axis", "score", "share"],
        [[name, f"{each:.4g}", f"{each / total:.2%}"] for name, each in zip(names, sums, strict=True)],
    )
    title = "Score of each axis"
    svg = histogram("scores-axes", title, caption, shares, names, "axis", "share of all scores")
    return figure(title, svg, caption, numbers=numbers)


def _curve(scores: dict[str, Any], sizes: dict[str, Any]) -> Markup:
    points = [(fraction, share) for fraction, share, _ in scores["curve"]]
    if points[-1][0] < 1:
        points.append((1.0, 1.0))  # the others have a score of 0
    marks = [(facts["kept"], _share_at(points, facts["kept"])) for facts in sizes.values()]
    half = next(fraction for fraction, share in points if share >= 0.5)
    caption = f"Half of the sum of all scores lies in the best {percent(half)} of the values."
    series = [Series("best values", points, style=0, markers=False)]
    if marks:
        one = len(marks) == 1
        series.append(Series("kept", marks, 1, line=False, labels=["kept" if one else name for name in sizes]))
    x = linear_axis("values, the best first", [0.0, 1.0], low=0.0, high=1.0, percent=True)
    if half < _STEEP:
        # Few values hold nearly everything: equal steps would show a corner and nothing else.
        series = [replace(each, points=[point for point in each.points if point[0] > 0]) for each in series]
        fractions = [point[0] for each in series for point in each.points]
        x = log_axis("values, the best first (logarithmic)", fractions, percent, high=1.0)
    y = linear_axis("share of all scores", [0.0, 1.0], low=0.0, high=1.0, percent=True)
    title = "Scores held by the best values"
    rows = [[percent(f), percent(share), f"{lowest:.4g}"] for f, share, lowest in scores["curve"]]
    thinned = rows[:: max(1, len(rows) // 20)]
    numbers = table(["best values", "of all scores", "lowest score"], thinned)
    return figure(title, line_chart("scores-curve", title, caption, series, x, y), caption, numbers=numbers)


def _schedule(schedule: list[list[float]], search: dict[str, Any]) -> Markup:
    steps = schedule[-1][0] or 1
    points = [(0.0, 1.0), *((step / steps * search["epochs"], kept) for step, kept in schedule)]
    caption = f"After {epochs(search['epochs'])} of search {percent(schedule[-1][1])} of the per-token values are kept"
    caption += ", in one pruning." if len(schedule) == 1 else "."
    x = linear_axis("epochs of the search", [0.0, search["epochs"]], low=0.0)
    y = linear_axis("kept", [0.0, 1.0], low=0.0, high=1.0, percent=True)
    rows = [[f"{step:,}", f"{step / steps * search['epochs']:.2f}", percent(kept)] for step, kept in schedule]
    title = "Schedule of the search"
    series = [Series("kept", points, 2, steps=True, markers=len(points) < 30)]
    svg = line_chart("training-schedule", title, caption, series, x, y)
    return figure(title, svg, caption, numbers=table(["step", "epoch", "kept"], rows))


def _share_at(points: list[tuple[float, float]], fraction: float) -> float:
    """Returns the height of the curve at a fraction, straight between its points."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= fraction <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (fraction - x0) / (x1 - x0)
    return points[-1][1]
