"""How much of what kept values are expected to save a pruned model does save by them."""

from __future__ import annotations

import torch
from torch import Tensor

# What is left of a value's information where values like it do not help: rounds come back from it.
_LEAST_USE = 0.02
_LEAST_ENERGY = 1e-5


def use_sums(values: Tensor, kept: Tensor, gradients: Tensor) -> Tensor:
    """Sums over the rows of a batch, for each field and axis: how values go with the gradients of the pruned model.

    Args:
        values: ``(B, F, D)``: the values of each row's tokens, pruned or not.
        kept: ``(B, F, D)`` bool: which of them the pruned model reads.
        gradients: ``(B, F, D)``: gradients of each row's loss at them, where the model is pruned.

    Returns:
        float64 ``(9, F, D)``, for :func:`use_of_sums`. Of all rows: the values. Of those whose value is kept: how many
        they are, values ``w``, gradients ``g``, and ``w²``, ``gw``, ``g²``, ``g²w``, ``g²w²``.
    """
    w, m, g = values, kept.to(values), gradients * kept
    own, both = w * m, g * w
    summands = (w, m, own, g, own * w, both, g * g, both * g, both * both)
    return torch.stack([each.sum(0, dtype=torch.float64) for each in summands])


def use_of_sums(rows: Tensor, squares: Tensor, sums: Tensor) -> Tensor:
    """Returns what share of what kept values are expected to save they do save; NaN where none is kept.

    To leave a value out changes the loss by ``-g w + h w² / 2``, to second order, and by ``h w² / 2`` where the model
    is as it was when the value was learned. What all tokens of a field have in common others can say: ``w`` is the
    distance from the field's mean. The share is drawn to 1, with a standard deviation of 1, by how little rows say.

    Args:
        rows: How many there are.
        squares: ``(F, D)``: the squares of all gradients, added up.
        sums: What :func:`use_sums` gave, added up.
    """
    # Letter by letter what was multiplied: m is 1 where a value is kept, and 0 elsewhere.
    w, m, mw, mg, mww, mgw, mgg, mggw, mggww = sums
    mean = w / rows
    energy = (mww - 2 * mean * mw + mean.square() * m).clamp(min=0)
    # Where all values are the mean, rounding leaves a little.
    energy = torch.where(energy > _LEAST_ENERGY * mww, energy, 0)
    expected = squares / rows * energy / 2
    known = expected > 0
    expected = torch.where(known, expected, 1)
    share = 1 - (mgw - mean * mg) / expected
    noise = (mggww - 2 * mean * mggw + mean.square() * mgg).clamp(min=0) / expected.square()
    return torch.where(known, ((share + noise) / (1 + noise)).clamp(_LEAST_USE, 1), torch.nan)
