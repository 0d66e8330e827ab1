"""What the sizes of a search look like, as charts and tables of Weights & Biases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import wandb
from wandb.plot import CustomChart, bar, line, line_series

from pme_lightning.score_spectrum import ScoreSpectrum
from pme_lightning.size_facts import FieldFacts, PopularityBand, SizeFacts

# The x-axis of the density: bands of popularity double, so this is log2(1 + training rows), rounded up.
POPULARITY_AXIS = "density/log2_rows"
_QUANTILES = {"10% of tokens at most": 0.1, "half of tokens at most": 0.5, "90% of tokens at most": 0.9}


def log_search(run: wandb.Run, facts: SizeFacts, spectrum: ScoreSpectrum | None) -> None:
    """Shows the sizes that were found.

    Args:
        run: The open run.
        facts: The sizes.
        spectrum: The scores that they were made of; ``None`` if they are not known.
    """
    run.define_metric(POPULARITY_AXIS, hidden=True)
    run.define_metric("density/sizes", step_metric=POPULARITY_AXIS)
    run.log({**size_charts(facts), **({} if spectrum is None else spectrum_charts(spectrum))})
    # A histogram of several steps is drawn as a density, here over popularity.
    for number, band in enumerate(facts.bands):
        if band.tokens:
            run.log({"density/sizes": _histogram(band.histogram), POPULARITY_AXIS: number})


def size_charts(facts: SizeFacts) -> dict[str, Any]:
    """Returns what shows the sizes, by name."""
    bands = [band for band in facts.bands if band.tokens]
    fields = facts.fields
    charts: dict[str, Any] = {
        "sizes/fields": _field_table(fields),
        "sizes/all_tokens": _histogram(facts.histogram),
        "sizes/by_field": _lines(
            list(range(facts.embedding_dim + 1)),
            {field.name: [count / max(1, field.tokens) for count in field.histogram] for field in fields},
            "Sizes in each field: share of its tokens",
            "size",
        ),
        "sizes/kept_by_field": _bars(
            [(field.name, field.kept) for field in fields], "field", "kept", "Kept fraction of each field"
        ),
        "sizes/over_popularity": _lines(
            [number for number, band in enumerate(facts.bands) if band.tokens],
            {"mean": [band.mean_size or 0.0 for band in bands]}
            | {name: [_quantile(band.histogram, part) for band in bands] for name, part in _QUANTILES.items()},
            "Size over popularity",
            "log2(1 + training rows of a token)",
        ),
        "sizes/density": _density_table(bands),
    }
    for field, name in zip(fields, _plain_names(fields), strict=True):
        charts[f"fields/{name}"] = _histogram(field.histogram)
    return charts


def spectrum_charts(spectrum: ScoreSpectrum) -> dict[str, Any]:
    """Returns what shows the scores, by name; nothing where no score is above 0."""
    charts: dict[str, Any] = {}
    if spectrum.curve:
        points = wandb.Table(
            ["fraction of values", "share of score", "lowest score"], data=[list(point) for point in spectrum.curve]
        )
        title = "Score spectrum: what the best values hold of all score"
        charts["sizes/score_spectrum"] = line(points, "fraction of values", "share of score", title=title)
    axes = [(f"{number}", score) for number, score in enumerate(spectrum.axes, start=1)]
    if spectrum.first_order is not None:
        axes.append(("first order", spectrum.first_order))
    charts["sizes/score_by_axis"] = _bars(axes, "axis", "score", "Score of each embedding axis, all tokens")
    return charts


def _field_table(fields: Sequence[FieldFacts]) -> wandb.Table:
    columns: list[str | int] = [
        "field",
        "tokens",
        "mean size",
        "first-order weights",
        "parameters before",
        "parameters after",
        "kept",
    ]
    rows = [[f.name, f.tokens, f.mean_size, f.first_order, f.full_parameters, f.parameters, f.kept] for f in fields]
    return wandb.Table(columns, data=rows, allow_mixed_types=True)


def _density_table(bands: Sequence[PopularityBand]) -> wandb.Table:
    rows = [
        [band.fewest, band.most, size, count, count / band.tokens]
        for band in bands
        for size, count in enumerate(band.histogram)
    ]
    return wandb.Table(["rows from", "rows to", "size", "tokens", "share of the band"], data=rows)


def _bars(values: Sequence[tuple[str, float]], label: str, value: str, title: str) -> CustomChart:
    return bar(wandb.Table([label, value], data=[list(pair) for pair in values]), label, value, title=title)


def _lines(xs: Sequence[float], ys: dict[str, list[float]], title: str, xname: str) -> CustomChart:
    return line_series(list(xs), list(ys.values()), keys=list(ys), title=title, xname=xname)


def _histogram(counts: Sequence[int]) -> wandb.Histogram:
    """Returns a histogram with one bin a size; with more sizes than bins (``D`` above 511), each bin holds several."""
    edges = np.arange(len(counts) + 1) - 0.5
    if len(counts) <= wandb.Histogram.MAX_LENGTH:
        return wandb.Histogram(np_histogram=(np.asarray(counts), edges))
    width = -(-len(counts) // wandb.Histogram.MAX_LENGTH)
    sums = np.add.reduceat(np.asarray(counts), np.arange(0, len(counts), width))
    return wandb.Histogram(np_histogram=(sums, np.append(edges[:-1:width], edges[-1])))


def _quantile(histogram: Sequence[int], part: float) -> int:
    """Returns the smallest size that this part of the tokens does not exceed."""
    return int(np.searchsorted(np.cumsum(histogram), part * sum(histogram)))


def _plain_names(fields: Sequence[FieldFacts]) -> list[str]:
    """Returns a name for each field that may stand in a key: without special characters, and each name once."""
    names: list[str] = []
    for field in fields:
        plain = re.sub(r"[^\w -]", "_", field.name) or "_"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names
