"""Least concave majorants, which reduce prefix allocation to picking the largest numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pme_lightning.embedding.row_chunks import row_chunks

# Values per chunk. They stay in the processor's cache. Also, torch processes this few in one thread, and the many short
# operations here are faster that way than with threads that wait for each other.
_CHUNK_VALUES = 1 << 15


def majorant_slopes(sums: Tensor, widths: Sequence[int]) -> Tensor:
    """Slopes of the least concave majorant of each column's prefix sums, for steps of unequal width.

    This is the decreasing isotonic regression of the column (what pool-adjacent-violators computes). At a price of
    ``λ`` per value, the best number of first steps to take is that of the slopes above ``λ``, for every ``λ`` that is
    not itself a slope.

    Uses the min-max form of isotonic regression, ``slope_k = min_{i<=k} max_{j>=k} mean(i..j)``, in ``K²/2``
    operations on whole columns. The result falls in ``k`` exactly, despite rounding.

    Args:
        sums: ``(K, n)``: what each of the K steps adds to the score.
        widths: the number of values in each step.

    Returns:
        ``(K, n)`` float64: score per value, non-increasing along dimension 0.
    """
    width = torch.tensor(widths, dtype=torch.float64, device=sums.device).unsqueeze(1)  # (K, 1)
    sums = sums.to(torch.float64)
    means = sums / width
    rising = (means[1:] > means[:-1]).any(0).nonzero().squeeze(1)  # the others are their own majorants
    if not len(rising):
        return means
    sums = sums.index_select(1, rising)
    slopes = torch.full_like(sums, torch.inf)
    for i in range(len(widths)):
        best = sums[i:].cumsum(0).div_(width[i:].cumsum(0))  # (K - i, n): mean(i..j) for j = i, i + 1, ...
        for j in range(len(best) - 2, -1, -1):
            torch.maximum(best[j], best[j + 1], out=best[j])
        torch.minimum(slopes[i:], best, out=slopes[i:])
    return means.index_copy_(1, rising, slopes)


def cached_chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` values in chunks that stay in the processor's cache."""
    return row_chunks(0, rows, max(1, _CHUNK_VALUES // max(1, width)))
