"""How training went: validation and loss over the epochs of each phase, and how far the search had pruned when."""

from __future__ import annotations

from typing import Any

from pme_lightning.pages.charts import Series, legend, line_chart
from pme_lightning.pages.elements import figure, metric, section, table
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.scales import linear_axis, percent

Curves = dict[str, dict[str, list[list[float]]]]


def training_of_run(curves: Curves, schedule: list[list[float]] | None, search: dict[str, Any] | None) -> Markup:
    """Returns the section.

    Args:
        curves: As in ``findings.json``.
        schedule: The same; ``None`` without a search.
        search: The block of ``summary.json``; ``None`` without a search.
    """
    fits = {phase: curve for phase, curve in curves.items() if curve["valid"]}
    pictures = [
        _validation(fits, 1, "AUC", max) if fits else None,
        _validation(fits, 2, "logloss", min) if fits else None,
        _loss({phase: curve for phase, curve in curves.items() if curve["loss"]}),
        _schedule(schedule, search) if schedule and search and search["epochs"] else None,
    ]
    if all(picture is None for picture in pictures):
        return Markup("")
    return section("Training", tag("div", *pictures, class_="figures"))


def phase_name(phase: str) -> str:
    """Returns what the model of a phase is called."""
    known = {"full": "full-size", "finetune": "multi-size", "search": "search"}
    return known.get(phase) or f"budget {phase.removeprefix('finetune-')}"


def styles(phases: list[str]) -> dict[str, int]:
    """Returns a style for each phase, the same in every picture of a page."""
    fixed = {"full": 1, "search": 2}
    others = [style for style in range(100) if style not in fixed.values()]
    return {phase: fixed[phase] if phase in fixed else others.pop(0) for phase in phases}


def _validation(fits: Curves, index: int, name: str, best: Any) -> Markup:
    style = styles(list(fits))
    series = [
        Series(phase_name(phase), [(point[0], point[index]) for point in fits[phase]["valid"]], style[phase])
        for phase in fits
    ]
    found = {each.name: best(each.points, key=lambda point: point[1]) for each in series}
    said = "Best: " + ", ".join(f"{who} {metric(y)} after epoch {_epoch(x)}" for who, (x, y) in found.items()) + "."
    x = linear_axis("epochs", [0.0, *(point[0] for each in series for point in each.points)], low=0.0)
    y = linear_axis(f"validation {name}", [point[1] for each in series for point in each.points])
    rows = [[each.name, _epoch(point[0]), metric(point[1])] for each in series for point in each.points]
    title = f"Validation {name}"
    svg = line_chart(f"training-{name.lower()}", title, said, series, x, y)
    return figure(title, svg, said, legend(series), table(["model", "epoch", name], rows))


def _loss(curves: Curves) -> Markup | None:
    if not curves:
        return None
    style = styles(list(curves))
    series = [
        Series(phase_name(phase), [(x, y) for x, y in curve["loss"]], style[phase], markers=False)
        for phase, curve in curves.items()
    ]
    x = linear_axis("epochs", [0.0, *(point[0] for each in series for point in each.points)], low=0.0)
    y = linear_axis("training loss", [point[1] for each in series for point in each.points])
    last = ", ".join(f"{each.name} {metric(each.points[-1][1])}" for each in series)
    said = f"Mean log loss of the training rows, before the step they bring; at the end: {last}."
    rows = [
        [each.name, _epoch(point[0]), metric(point[1])]
        for each in series
        for point in each.points[:: max(1, len(each.points) // 20)]
    ]
    title = "Training loss"
    svg = line_chart("training-loss", title, said, series, x, y)
    return figure(title, svg, said, legend(series), table(["phase", "epoch", "loss"], rows))


def _schedule(schedule: list[list[float]], search: dict[str, Any]) -> Markup:
    steps = schedule[-1][0] or 1
    points = [(0.0, 1.0), *((step / steps * search["epochs"], kept) for step, kept in schedule)]
    times = "once" if len(schedule) == 1 else f"{len(schedule)} times"
    said = (
        f"Kept of the per-token values: pruned {times} in {_epoch(search['epochs'])} epochs of search, "
        f"to {percent(schedule[-1][1])} at the end."
    )
    x = linear_axis("epochs of the search", [0.0, search["epochs"]], low=0.0)
    y = linear_axis("kept", [0.0, 1.0], low=0.0, high=1.0, percent=True)
    rows = [[f"{step:,}", f"{step / steps * search['epochs']:.2f}", percent(kept)] for step, kept in schedule]
    title = "Schedule of the search"
    series = [Series("kept", points, 2, steps=True, markers=len(points) < 30)]
    svg = line_chart("training-schedule", title, said, series, x, y)
    return figure(title, svg, said, numbers=table(["step", "epoch", "kept"], rows))


def _epoch(epochs: float) -> str:
    return f"{epochs:.2f}".rstrip("0").rstrip(".")
