"""What share of their expected savings the kept values of a pruned model achieve."""

from __future__ import annotations

import torch
from torch import Tensor

# The minimal factor on a value's information if values like it do not help: later rounds can recover from it.
_LEAST_USE = 0.02
_LEAST_ENERGY = 1e-5


def use_sums(values: Tensor, kept: Tensor, gradients: Tensor) -> Tensor:
    """Sums over the rows of a batch, for each field and axis: moments of values and gradients in the pruned model.

    Args:
        values: ``(B, F, D)``: the values of each row's tokens, pruned or not.
        kept: ``(B, F, D)`` bool: which of them the pruned model reads.
        gradients: ``(B, F, D)``: gradients of each row's loss at them in the pruned model.

    Returns:
        float64 ``(9, F, D)``, for :func:`use_of_sums`. Over all rows: the values. Over rows whose value is kept: their
        number, values ``w``, gradients ``g``, and ``w²``, ``gw``, ``g²``, ``g²w``, ``g²w²``.
    """
    w, m, g = values, kept.to(values), gradients * kept
    own, both = w * m, g * w
    summands = (w, m, own, g, own * w, both, g * g, both * g, both * both)
    return torch.stack([each.sum(0, dtype=torch.float64) for each in summands])


def use_of_sums(rows: Tensor, squares: Tensor, sums: Tensor) -> Tensor:
    """Returns the share of their expected savings that kept values achieve; NaN if none is kept.

    Leaving a value out changes the loss by ``-g w + h w² / 2``, to second order, and by ``h w² / 2`` if the model is
    as it was when the value was learned. Other values can say what all tokens of a field have in common: so ``w`` is
    the distance from the field's mean. The less rows say, the more the share is drawn toward 1, the mean of a prior
    with a standard deviation of 1.

    Args:
        rows: Number of rows.
        squares: ``(F, D)``: the sum of the squares of all gradients.
        sums: The sum of the results of :func:`use_sums`.
    """
    # The letters are the factors: m is 1 if a value is kept, and 0 otherwise.
    w, m, mw, mg, mww, mgw, mgg, mggw, mggww = sums
    mean = w / rows
    energy = (mww - 2 * mean * mw + mean.square() * m).clamp(min=0)
    # If all values equal the mean, rounding errors remain.
    energy = torch.where(energy > _LEAST_ENERGY * mww, energy, 0)
    expected = squares / rows * energy / 2
    known = expected > 0
    expected = torch.where(known, expected, 1)
    share = 1 - (mgw - mean * mg) / expected
    noise = (mggww - 2 * mean * mggw + mean.square() * mgg).clamp(min=0) / expected.square()
    return torch.where(known, ((share + noise) / (1 + noise)).clamp(_LEAST_USE, 1), torch.nan)
