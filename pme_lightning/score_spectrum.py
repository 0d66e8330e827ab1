"""How the scores of a search are spread over axes and values, as plain numbers for reports and dashboards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.search import Scores

_CHUNK = 1 << 20
# Scores are counted in so many bins, equally wide in their logarithm.
_BINS = 1 << 13
# The curve has a point where its fraction or its share has grown by so much.
_STEP = 0.01


@dataclass(frozen=True)
class ScoreSpectrum:
    """How scores are spread over the axes, and over the values.

    Attributes:
        axes: ``D`` numbers: the sum of all tokens' scores on each axis.
        first_order: The sum of the scores of first-order weights; ``None`` for a model without them.
        values: How many values were scored.
        curve: Points ``(fraction of the values, the best first; their share of the sum of all scores; the lowest
            score among them)``, from a fraction of 0 to that of all values with a score above 0. Every point is
            exact, no interpolation.
    """

    axes: list[float]
    first_order: float | None
    values: int
    curve: list[tuple[float, float, float]]


def score_spectrum(scores: Scores) -> ScoreSpectrum:
    """Returns how scores are spread; only finite ones above 0 count.

    Args:
        scores: Of a search, ``PruningCallback.scores``.
    """
    V, D = scores.table.shape
    axes = torch.zeros(D, dtype=torch.float64)
    for rows in scores.table.split(max(1, _CHUNK // D)):
        axes += _worth(rows).sum(0, dtype=torch.float64).cpu()
    first_order = None
    if scores.linear is not None:
        first_order = sum(float(_worth(part).sum(dtype=torch.float64)) for part in scores.linear.split(_CHUNK))
    values = V * (D + (first_order is not None))
    return ScoreSpectrum(axes.tolist(), first_order, values, _curve(scores, values))


def _curve(scores: Scores, values: int) -> list[tuple[float, float, float]]:
    low, high = float("inf"), 0.0
    for part in _positive(scores):
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    if high == 0:
        return []
    # Values whose scores lie closer than a bin is wide count as equal; a bin's number falls with the score.
    top = math.log2(high)
    width = max((top - math.log2(low)) / _BINS, 1e-9)
    counts = torch.zeros(_BINS, dtype=torch.int64)
    sums = torch.zeros(_BINS, dtype=torch.float64)
    lowest = torch.full((_BINS,), float("inf"), dtype=torch.float64)
    for part in _positive(scores):
        part = part.to("cpu", torch.float64)
        bins = ((top - part.log2()) / width).long().clamp_(0, _BINS - 1)
        counts += torch.bincount(bins, minlength=_BINS)
        sums += torch.bincount(bins, part, minlength=_BINS)
        lowest.scatter_reduce_(0, bins, part, "amin")
    fractions, shares = counts.cumsum(0) / values, sums.cumsum(0) / sums.sum()
    filled = counts.nonzero().squeeze(1).tolist()
    curve = [(0.0, 0.0, high)]
    for b in filled:
        point = (float(fractions[b]), float(shares[b]), float(lowest[b]))
        moved = max(point[0] - curve[-1][0], point[1] - curve[-1][1])
        if moved >= _STEP or b == filled[-1]:
            curve.append(point)
    return curve


def _positive(scores: Scores) -> Iterator[Tensor]:
    """Yields the scores that count, part by part."""
    for tensor in (scores.table, scores.linear):
        if tensor is not None:
            for part in tensor.reshape(-1).split(_CHUNK):
                part = part[part.isfinite() & (part > 0)]
                if len(part):
                    yield part


def _worth(scores: Tensor) -> Tensor:
    return scores.nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
