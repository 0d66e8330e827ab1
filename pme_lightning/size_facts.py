"""What the sizes that a search found say, as plain numbers that reports and dashboards draw from.

They are small: per field, and per band of popularity. Tokens are counted in tensor operations, in parts, so that a
vocabulary of 10^7 tokens costs little memory beside its sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.search import SearchResult

_CHUNK = 1 << 20


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
    if len(fields) != len(field_tokens) or sum(field_tokens) != V:
        raise ValueError(
            f"{len(fields)} fields with {sum(field_tokens)} tokens in {len(field_tokens)} counts do not fit {V} sizes"
        )
    sizes = result.sizes.split(list(field_tokens))
    linear = [None] * len(fields) if result.linear is None else result.linear.split(list(field_tokens))
    per_field = [_field_facts(*of_field, D) for of_field in zip(fields, sizes, linear, strict=True)]
    full = V * (D + (result.linear is not None))
    return SizeFacts(
        embedding_dim=D,
        tokens=V,
        full_parameters=full,
        parameters=result.parameters,
        kept=result.parameters / full if full else 0.0,
        histogram=[sum(counts) for counts in zip(*(field.histogram for field in per_field), strict=True)],
        fields=per_field,
        bands=popularity_bands(result, frequencies),
    )


def _field_facts(name: str, sizes: Tensor, linear: Tensor | None, D: int) -> FieldFacts:
    tokens = len(sizes)
    histogram = torch.bincount(sizes, minlength=D + 1).tolist()
    first_order = None if linear is None else int(linear.sum())
    full = tokens * (D + (first_order is not None))
    parameters = _sum_of_sizes(histogram) + (first_order or 0)
    return FieldFacts(
        name=name,
        tokens=tokens,
        mean_size=_sum_of_sizes(histogram) / tokens if tokens else 0.0,
        first_order=first_order,
        full_parameters=full,
        parameters=parameters,
        kept=parameters / full if full else 0.0,
        histogram=histogram,
    )


def popularity_bands(result: SearchResult, frequencies: Tensor) -> list[PopularityBand]:
    """Returns how sizes go with popularity, the rarest tokens first; arguments as in :func:`size_facts`."""
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
        mean_size = _sum_of_sizes(histogram) / tokens if tokens else None
        bands.append(PopularityBand((1 << b) >> 1, (1 << b) - 1, tokens, mean_size, histogram))
    return bands


def _sum_of_sizes(histogram: Sequence[int]) -> int:
    return sum(size * count for size, count in enumerate(histogram))
