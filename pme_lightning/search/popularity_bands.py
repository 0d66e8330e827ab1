"""Tokens of a field grouped by popularity: what a row tells may differ between popular and rare tokens."""

from __future__ import annotations

import torch
from torch import Tensor

# Tokens of a field with 1, 2 to 3, 4 to 7, ... training rows form a band.
BANDS = 32
# Each band counts as having this many rows of its field's mean in addition to its own.
_PRIOR_ROWS = 64


def band_of(frequencies: Tensor) -> Tensor:
    """Returns the band of each frequency, the integer part of its binary logarithm; 0 for a token never seen."""
    return (torch.frexp(frequencies.double().clamp(min=1)).exponent.long() - 1).clamp(max=BANDS - 1)


def band_sums(frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> Tensor:
    """Sums over the rows of a batch, for each field and popularity band.

    Args:
        frequencies: ``(B, F)``: training rows of each token.
        row_grad: ``(B, F, D)``: gradients of each row's loss at its embeddings.
        linear_grad: ``(B, F)``: the same at its first-order weights; None without them.

    Returns:
        float64 ``(2, F, 32)``, with first-order weights ``(3, F, 32)``: the number of rows, the squared gradients
        summed over the axes, and the squared gradients at first-order weights.
    """
    fields = frequencies.shape[1]
    place = (band_of(frequencies) + torch.arange(fields, device=frequencies.device) * BANDS).reshape(-1)
    # Computing norms of rows makes no copy of the gradients, which are as large as a batch of embeddings.
    squares = torch.linalg.vector_norm(row_grad, dim=-1).double().square_()
    weights = [torch.ones_like(place, dtype=torch.float64), squares.reshape(-1)]
    if linear_grad is not None:
        weights.append(linear_grad.double().square().reshape(-1))
    sums = [each.new_zeros(fields * BANDS).index_add_(0, place, each) for each in weights]
    return torch.stack(sums).view(len(sums), fields, BANDS)


def over_the_field(bands: Tensor) -> Tensor:
    """Returns the mean square of each band divided by that of its field; closer to 1 if the band has few rows."""
    rows, squares = bands[0], bands[1:]
    field = squares.sum(-1, keepdim=True) / rows.sum(-1, keepdim=True).clamp(min=1)
    found = (squares + _PRIOR_ROWS * field) / ((rows + _PRIOR_ROWS) * torch.where(field > 0, field, 1))
    return torch.where(field > 0, found, 1)
