"""How training went: validation and loss over the epochs of each phase."""

from __future__ import annotations

from statistics import median

from pme_lightning.measures import MEASURES, Measure
from pme_lightning.pages.charts import Series, legend, line_chart
from pme_lightning.pages.elements import figure, metric, section, table
from pme_lightning.pages.markup import Markup, tag
from pme_lightning.pages.scales import linear_axis, log_axis

# Up to so many models a caption names each of them.
_NAMED = 3
Curves = dict[str, dict[str, list[list[float]]]]


def training_of_run(curves: Curves) -> Markup:
    """Returns the section; ``curves``: as in ``findings.json``."""
    fits = {phase: curve for phase, curve in curves.items() if curve["valid"]}
    pictures = [
        *(_validation(fits, measure, column) for column, measure in enumerate(MEASURES, start=1) if fits),
        _loss({phase: curve for phase, curve in curves.items() if curve["loss"]}),
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


def _validation(fits: Curves, measure: Measure, column: int) -> Markup:
    """Returns the picture of one measure, which is this column of what validations measured."""
    style, name = styles(list(fits)), measure.label
    series = [
        Series(phase_name(phase), [(point[0], point[column]) for point in fits[phase]["valid"]], style[phase])
        for phase in fits
    ]
    best = {each.name: measure.best(each.points, key=lambda point: point[1]) for each in series}
    if len(best) > _NAMED:
        winner = measure.best(best, key=lambda model: best[model][1])
        best = {winner: best[winner]}
    found = ", ".join(f"{model} {metric(y)} after epoch {epoch(x)}" for model, (x, y) in best.items())
    caption = f"Best: {found}."
    x = linear_axis("epochs", [0.0, *(point[0] for each in series for point in each.points)], low=0.0)
    y = linear_axis(f"validation {name}", [point[1] for each in series for point in each.points])
    rows = [[each.name, epoch(point[0]), metric(point[1])] for each in series for point in each.points]
    title = f"Validation {name}"
    svg = line_chart(f"training-{measure.key}", title, caption, series, x, y)
    return figure(title, svg, caption, legend(series), table(["model", "epoch", name], rows))


def _loss(curves: Curves) -> Markup | None:
    if not curves:
        return None
    style = styles(list(curves))
    series = [
        Series(phase_name(phase), [(x, y) for x, y in curve["loss"]], style[phase], markers=False)
        for phase, curve in curves.items()
    ]
    x = linear_axis("epochs", [0.0, *(point[0] for each in series for point in each.points)], low=0.0)
    losses = [point[1] for each in series for point in each.points]
    # A first loss far above the others would press those into one line.
    spread = min(losses) > 0 and max(losses) > 5 * median(losses)
    y = (
        log_axis("training loss (logarithmic)", losses, "{:g}".format)
        if spread
        else linear_axis("training loss", losses)
    )
    last = ", ".join(f"{each.name} {metric(each.points[-1][1])}" for each in series)
    caption = "Mean log loss of the training rows, before the step they bring"
    caption += f"; at the end: {last}." if len(series) <= _NAMED else "."
    rows = [
        [each.name, epoch(point[0]), metric(point[1])]
        for each in series
        for point in each.points[:: max(1, len(each.points) // 20)]
    ]
    title = "Training loss"
    svg = line_chart("training-loss", title, caption, series, x, y)
    return figure(title, svg, caption, legend(series), table(["phase", "epoch", "loss"], rows))


def epoch(number: float) -> str:
    """Returns how many epochs, with two decimals at most."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def epochs(number: float) -> str:
    """Returns a number of epochs in words.

    >>> epochs(1.0), epochs(0.5), epochs(4.6875)
    ('1 epoch', '0.5 epochs', '4.69 epochs')
    """
    return f"{epoch(number)} epoch{'' if number == 1 else 's'}"
