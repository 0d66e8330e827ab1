"""From a numeric value to its bin, which then is a token like any other."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

# Twice this many values are held at most: the quantiles are then off by about a thousandth of a rank.
SAMPLE_SIZE = 1 << 20

_LEAST_INTEGER = -(2.0**63)


class QuantileSample:
    """A bounded systematic sample of a stream of values: every k-th, with k doubled whenever it gets too many.

    Up to ``2 * size`` values the sample is the whole stream and the quantiles are exact. It needs no random numbers,
    so the same data always give the same edges.
    """

    def __init__(self, size: int = SAMPLE_SIZE) -> None:
        self.size = size
        self._step = 1
        self._seen = 0
        self._parts: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Takes the next values of the stream (float64, none missing)."""
        # The first row of this part whose number in the stream is a multiple of the step.
        first = -self._seen % self._step
        self._seen += len(values)
        self._parts.append(values[first :: self._step].copy())
        while sum(map(len, self._parts)) > 2 * self.size:
            self._parts = [np.concatenate(self._parts)[::2]]
            self._step *= 2

    def edges(self, bins: int) -> np.ndarray:
        """The inner edges of at most ``bins`` bins of equal frequency, rising, each one a value of the sample."""
        values = np.concatenate([np.empty(0), *self._parts])
        if len(values) == 0:
            return values
        inner = np.arange(1, bins) / bins
        return np.unique(np.quantile(values, inner, method="inverted_cdf"))


def quantile_bins(values: pl.Series, edges: np.ndarray) -> pl.Series:
    """The bin of each value: the number of edges below it; a value on an edge belongs to the bin below.

    Values outside the range seen in training, infinities too, fall in the first or last bin. Missing stays missing.
    """
    bins = np.searchsorted(edges, values.fill_null(0.0).to_numpy(), side="left")
    missing = values.is_null()
    return pl.Series(values.name, bins, dtype=pl.Int64).set(missing, None)


def log2_bins(values: pl.Series) -> pl.Series:
    """The rule of the Criteo challenge's winners: ``floor(ln(x)^2)`` for x > 2, else x itself cut to an integer.

    The source is the winners' FFM features (Juan et al., 3 Idiots, 2014), as the open CTR benchmarks apply it; it is
    the square of the natural logarithm, whatever its name suggests. Missing stays missing, and an
    infinity becomes missing: it has no such square.
    """
    values = values.set(values.is_infinite().fill_null(False), None).clip(lower_bound=_LEAST_INTEGER)
    large = values > 2
    squared = values.clip(lower_bound=math.e).log().pow(2).floor()
    return squared.zip_with(large.fill_null(False), values).cast(pl.Int64)
