"""Plots accuracy over the kept fraction, with the spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import polars as pl
from accuracy_tables import METRICS, Outcome, is_rule, outcomes
from methods import METHODS

from pme_lightning.errors import BadInput

# Okabe and Ito's colours, told apart with any colour vision; a wine red for their yellow, too light on white.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#882255", "#000000")
_APART = 1.006
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


def plot(rows: pl.DataFrame, folder: Path, kind: str = "svg") -> list[Path]:
    """Writes one figure for each data set and backbone: AUC and logloss over the kept fraction.

    Args:
        rows: The rows that can be compared with one another.
        folder: Where to.
        kind: ``svg`` or ``png``.

    Raises:
        BadInput: matplotlib is not installed.
    """
    files = []
    with figures(folder, "accuracy") as make_figure:
        for (dataset, backbone), outcome in outcomes(rows).items():
            figure = make_figure(figsize=(11, 4.5), layout="constrained")
            figure.suptitle(f"{dataset}, {backbone}")
            for axes, metric in zip(figure.subplots(1, 2), METRICS, strict=True):
                _panel(axes, outcome, metric)
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside right center", frameon=False)
            path = folder / f"accuracy_{dataset}_{backbone}.{kind}"
            figure.savefig(path, dpi=150, metadata={"Date": None} if kind == "svg" else None)
            files.append(path)
    return files


@contextmanager
def figures(folder: Path, salt: str) -> Iterator[Callable[..., Any]]:
    """Makes a folder for figures, and gives what makes one.

    Text in them stays text, and the same rows give the same file.

    Args:
        folder: Where to.
        salt: Of the names within an SVG file.

    Raises:
        BadInput: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise BadInput("plots need matplotlib: pip install -e '.[bench]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        yield Figure


def _panel(axes: Any, outcome: Outcome, metric: str) -> None:
    full = list(outcome.values("full", 1.0, metric).values())
    if full:
        axes.axhline(fmean(full), color="0.35", linestyle=(0, (1, 1)), label="full size")
        axes.axhspan(fmean(full) - _spread(full), fmean(full) + _spread(full), color="0.35", alpha=0.15, linewidth=0)
    # Searches of other lengths have a table; here they would be points without a line.
    methods = [method for method in outcome.methods if "@" not in method]
    curves = {method: points for method in methods if (points := curve(outcome, method, metric))}
    for place, (method, points) in enumerate(curves.items()):
        kept, mean, spread = zip(*points, strict=True)
        # Methods meet a budget exactly: side by side, their error bars can be read.
        aside = [fraction * _APART ** (place - (len(curves) - 1) / 2) for fraction in kept]
        axes.errorbar(aside, mean, yerr=spread, label=method, capsize=2, markersize=5, **_style(method))
    axes.set_xscale("log")
    # Budgets that few methods were measured at have points, and no room for a label.
    measured = {b: sum(bool(outcome.values(method, b, metric)) for method in curves) for b in outcome.budgets}
    budgets = [budget for budget, count in measured.items() if count and 2 * count >= max(measured.values())]
    axes.set_xticks(budgets, [f"{100 * budget:.4g}%" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("kept fraction of the embedding's bytes (methods set apart)")
    axes.set_ylabel(f"{METRICS[metric]} (mean and standard deviation over seeds)")
    axes.grid(alpha=0.3)


def curve(outcome: Outcome, method: str, metric: str) -> list[tuple[float, float, float]]:
    """Returns ``(kept fraction, mean, standard deviation over seeds)`` of a method, by rising fraction."""
    points = []
    for budget in outcome.budgets:
        values = list(outcome.values(method, budget, metric).values())
        if values:
            kept = fmean(outcome.values(method, budget, "kept_fraction").values())
            points.append((kept, fmean(values), _spread(values)))
    return sorted(points)


def _style(method: str) -> dict[str, Any]:
    """A method looks the same in every plot: rules are dashed, searches are solid."""
    place = list(METHODS).index(method) - 1 if method in METHODS else len(METHODS)  # "full" has its own line
    colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
    return {"color": colour, "marker": marker, "linestyle": "--" if is_rule(method) else "-"}


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
