"""What the outcome of a search says, as plain numbers that reports and dashboards draw from.

Everything here is small: per field, per band of popularity, per axis. Tokens are counted in tensor operations, in
parts, so that a vocabulary of 10^7 tokens costs little memory beside its sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.search import Scores, SearchResult

_CHUNK = 1 << 20
# Scores are counted in so many bins, equally wide in their logarithm, and of those few are told.
_SCORE_BINS = 1 << 13
_SCORE_STEP = 0.01


@dataclass(frozen=True)
class FieldFacts:
    """What a field's tokens keep of their full-size embeddings.

    Attributes:
        name: The field.
        tokens: How many tokens it has.
        mean_size: Embedding values a token keeps, on average.
        first_order: How many first-order weights are kept; ``None`` for a model without them.
        full_parameters: Per-token values before, ``tokens * D`` (and ``tokens`` more with first-order weights).
        parameters: Per-token values kept, first-order weights included.
        kept: ``parameters / full_parameters``.
        histogram: ``D + 1`` counts: tokens of size 0 ... ``D``.
    """

    name: str
    tokens: int
    mean_size: float
    first_order: int | None
    full_parameters: int
    parameters: int
    kept: float
    histogram: list[int]


@dataclass(frozen=True)
class PopularityBand:
    """The tokens that occur about equally often in the training rows; bands double: 0, 1, 2-3, 4-7, ...

    Attributes:
        fewest: Training rows of a token in this band, at least.
        most: Training rows of a token in this band, at most.
        tokens: How many tokens are in it; bands between others may be empty.
        mean_size: Embedding values a token of the band keeps, on average; ``None`` without tokens.
        histogram: ``D + 1`` counts: tokens of size 0 ... ``D``.
    """

    fewest: int
    most: int
    tokens: int
    mean_size: float | None
    histogram: list[int]


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


@dataclass(frozen=True)
class SizeFacts:
    """What a search found; ``dataclasses.asdict`` makes JSON of it.

    The shared projection belongs to no token and is counted nowhere here.

    Attributes:
        embedding_dim: ``D``.
        tokens: ``V``.
        full_parameters: Per-token values of the full-size model.
        parameters: Per-token values kept.
        kept: ``parameters / full_parameters``.
        histogram: ``D + 1`` counts over all fields: tokens of size 0 ... ``D``.
        fields: One entry a field, in the order of the vocabulary.
        bands: One entry a band of popularity, the rarest first.
    """

    embedding_dim: int
    tokens: int
    full_parameters: int
    parameters: int
    kept: float
    histogram: list[int]
    fields: list[FieldFacts]
    bands: list[PopularityBand]


def size_facts(
    result: SearchResult, fields: Sequence[str], field_tokens: Sequence[int], frequencies: Tensor
) -> SizeFacts:
    """Returns what the sizes of a search say.

    Args:
        result: The search's outcome, ``V`` sizes in the order of the vocabulary.
        fields: The ``F`` field names.
        field_tokens: ``F`` numbers of tokens, which add up to ``V``.
        frequencies: ``(V,)`` training rows of each token, in the order of the vocabulary.

    Raises:
        ValueError: The fields or the frequencies are of another vocabulary than the sizes.
    """
    D, V = result.embedding_dim, len(result.sizes)
    per_field = field_facts(result, fields, field_tokens)
    full = V * (D + (result.linear is not None))
    return SizeFacts(
        embedding_dim=D,
        tokens=V,
        full_parameters=full,
        parameters=result.parameters,
        kept=result.parameters / full if full else 0.0,
        histogram=[sum(counts) for counts in zip(*(one.histogram for one in per_field), strict=True)],
        fields=per_field,
        bands=popularity_bands(result, frequencies),
    )


def field_facts(result: SearchResult, fields: Sequence[str], field_tokens: Sequence[int]) -> list[FieldFacts]:
    """Returns what each field keeps; arguments and errors as in :func:`size_facts`."""
    D = result.embedding_dim
    if len(fields) != len(field_tokens) or sum(field_tokens) != len(result.sizes):
        raise ValueError(
            f"{len(fields)} fields with {sum(field_tokens)} tokens in {len(field_tokens)} counts do not fit "
            f"{len(result.sizes)} sizes"
        )
    facts = []
    for name, tokens, start in zip(fields, field_tokens, _starts(field_tokens), strict=True):
        histogram = torch.bincount(result.sizes[start : start + tokens], minlength=D + 1).tolist()
        first_order = None if result.linear is None else int(result.linear[start : start + tokens].sum())
        values = sum(size * count for size, count in enumerate(histogram))
        full = tokens * (D + (first_order is not None))
        kept = values + (first_order or 0)
        mean_size = values / tokens if tokens else 0.0
        facts.append(
            FieldFacts(name, tokens, mean_size, first_order, full, kept, kept / full if full else 0.0, histogram)
        )
    return facts


def popularity_bands(result: SearchResult, frequencies: Tensor) -> list[PopularityBand]:
    """Returns the sizes over popularity, one row a band: density and mean; arguments as in :func:`size_facts`."""
    if frequencies.shape != result.sizes.shape:
        raise ValueError(f"{tuple(frequencies.shape)} frequencies do not fit {len(result.sizes)} sizes")
    D = result.embedding_dim
    # Band b > 0 holds the frequencies of b binary digits: 2^(b-1) ... 2^b - 1.
    num_bands = int(frequencies.max()).bit_length() + 1 if len(frequencies) else 1
    edges = torch.tensor([1 << b for b in range(num_bands - 1)], dtype=torch.int64)
    counts = torch.zeros(num_bands * (D + 1), dtype=torch.int64)
    for sizes, rows in zip(result.sizes.split(_CHUNK), frequencies.split(_CHUNK), strict=True):
        band = torch.bucketize(rows.to("cpu", torch.int64), edges, right=True)
        counts += torch.bincount(band * (D + 1) + sizes, minlength=len(counts))
    bands = []
    for b, histogram in enumerate(counts.view(num_bands, D + 1).tolist()):
        tokens = sum(histogram)
        mean_size = sum(size * count for size, count in enumerate(histogram)) / tokens if tokens else None
        bands.append(PopularityBand((1 << b) >> 1, (1 << b) - 1, tokens, mean_size, histogram))
    return bands


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
    width = max((top - math.log2(low)) / _SCORE_BINS, 1e-9)
    counts = torch.zeros(_SCORE_BINS, dtype=torch.int64)
    sums = torch.zeros(_SCORE_BINS, dtype=torch.float64)
    lowest = torch.full((_SCORE_BINS,), float("inf"), dtype=torch.float64)
    for part in _positive(scores):
        part = part.to("cpu", torch.float64)
        bins = ((top - part.log2()) / width).long().clamp_(0, _SCORE_BINS - 1)
        counts += torch.bincount(bins, minlength=_SCORE_BINS)
        sums += torch.bincount(bins, part, minlength=_SCORE_BINS)
        lowest.scatter_reduce_(0, bins, part, "amin")
    fractions, shares = counts.cumsum(0) / values, sums.cumsum(0) / sums.sum()
    filled = counts.nonzero().squeeze(1).tolist()
    curve = [(0.0, 0.0, high)]
    for b in filled:
        point = (float(fractions[b]), float(shares[b]), float(lowest[b]))
        moved = max(point[0] - curve[-1][0], point[1] - curve[-1][1])
        if moved >= _SCORE_STEP or b == filled[-1]:
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


def _starts(field_tokens: Sequence[int]) -> list[int]:
    starts = [0]
    for tokens in field_tokens[:-1]:
        starts.append(starts[-1] + tokens)
    return starts
