"""Plots test AUC over the bytes of the exported table, by bits of a value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import polars as pl
from accuracy_tables import is_rule
from plot_accuracy import figures

# Of Okabe and Ito's colours, by bits.
_COLOURS = {32: "#0072B2", 16: "#CC79A7", 8: "#009E73", 4: "#D55E00"}
_MARKERS = {32: "o", 16: "D", 8: "s", 4: "^"}


def plot(rows: pl.DataFrame, folder: Path) -> list[Path]:
    """Writes a figure for each data set and backbone.

    Args:
        rows: Of the results of accuracy_exported.py.
        folder: Where to.

    Raises:
        BadInput: matplotlib is not installed.
    """
    files = []
    with figures(folder, "exported") as make_figure:
        parts = rows.drop_nulls("test_auc").partition_by("dataset", "backbone", as_dict=True, maintain_order=True)
        for (dataset, backbone), part in parts.items():
            figure = make_figure(figsize=(7.5, 4.5), layout="constrained")
            _panel(figure.subplots(), part, f"{dataset}, {backbone}")
            path = folder / f"exported_{dataset}_{backbone}.svg"
            figure.savefig(path, metadata={"Date": None})
            files.append(path)
    return files


def _panel(axes: Any, rows: pl.DataFrame, title: str) -> None:
    cells: dict[tuple[str, int, float], list[tuple[float, float]]] = {}
    for row in rows.to_dicts():
        cells.setdefault((row["method"], row["bits"], row["asked"]), []).append((row["fraction"], row["test_auc"]))
    methods = list(dict.fromkeys(method for method, *_ in cells if method != "full"))
    for bits in sorted({bits for _, bits, _ in cells}, reverse=True):
        style = {"color": _COLOURS[bits], "marker": _MARKERS[bits], "capsize": 2, "markersize": 5}
        full = cells.get(("full", bits, 1.0))
        if full:
            axes.errorbar(*_point(full), label=f"full size, {bits} bits", linestyle="", **style | {"mfc": "white"})
        asked = sorted({a for method, b, a in cells if b == bits and method != "full"})
        best, own = [], []
        for a in asked:
            found = {method: cells[method, bits, a] for method in methods if (method, bits, a) in cells}
            rules = [values for method, values in found.items() if is_rule(method)]
            best += [max(rules, key=lambda values: fmean(auc for _, auc in values))] if rules else []
            own += [values for method, values in found.items() if not is_rule(method)]
        for name, points, line in (("pme", own, "-"), ("best rule", best, "--")):
            if points:
                x, y, spread = zip(*map(_point, points), strict=True)
                axes.errorbar(x, y, spread, label=f"{name}, {bits} bits", linestyle=line, **style)
    axes.set_xscale("log")
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    axes.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(title)
    axes.set_xlabel("bytes of the exported table, of the full-size one in 32 bits")
    axes.set_ylabel("test AUC (mean and standard deviation over seeds)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2)


def _point(values: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Returns the mean fraction, the mean AUC, and its standard deviation."""
    aucs = [auc for _, auc in values]
    return fmean(fraction for fraction, _ in values), fmean(aucs), stdev(aucs) if len(aucs) > 1 else 0.0
