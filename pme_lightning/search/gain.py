"""What values are worth: the log loss that they save after training, minus the cost of their noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Twice the log loss of a row for a model without knowledge (p = 1/2): scores are in units of half a nat.
_MOST_OF_A_ROW = 2 * math.log(2)


def signal_to_noise(told: Tensor, squares: Tensor, frequencies: Tensor) -> Tensor:
    """Returns the signal-to-noise ratio ``(n, K)`` of what training on all rows can learn about the values of tokens.

    Args:
        told: ``(n, K)``: what one row tells about each value beyond those before it.
        squares: ``(n, K)``: expected squares of the values.
        frequencies: ``(n,)``: training rows of each token.
    """
    return frequencies.double().unsqueeze(1) * _one_by_one(told * squares)


def _one_by_one(saved: Tensor) -> Tensor:
    """Returns what each value ``(n, K)`` saves per row beyond those before it; together they save at most all."""
    together = -_MOST_OF_A_ROW * torch.expm1(saved.cumsum(1) / -_MOST_OF_A_ROW)
    # If nothing is left to save, rounding makes some of it negative.
    return torch.cat([together[:, :1], together.diff(dim=1)], 1).clamp(min=0)


def said_once(signal: Tensor, first: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the signals of a token's values and of its first-order weight, with what both say counted once.

    Of the first-order weight and the best value, the more informative one counts in full. Of the other, only the share
    counts that the first one cannot say as well.

    Args:
        signal: ``(n, D)``: signals of values.
        first: ``(n, 1)``: signals of first-order weights.
        shared: ``(D,)``: the share of each value that the first-order weight says as well, and vice versa.
    """
    best = signal.max(dim=1, keepdim=True)
    value_first = best.values >= first
    alone = torch.where(value_first, first * (1 - shared[best.indices]), first)
    return torch.where(value_first, signal, signal * (1 - shared)), alone


def gain(signal: Tensor, usual: Tensor) -> Tensor:
    """Returns what values save after training, minus the cost of their noise.

    If training shrinks a value with signal-to-noise ratio ``s`` to a fraction ``r`` of where its rows would take it,
    the value saves ``r ((2 - r) s - r)``. The maximum is ``s² / (1 + s)``, at the value's own optimum
    ``r = s / (1 + s)``. Training does not know the optimum of each value: its factor is taken to lie halfway between
    that and the optimum of the usual value of its field and axis. So a value of a frequent token that is close to zero
    costs more than it saves.
    """
    middle = (signal * usual).sqrt()
    shrunk = middle / (1 + middle)
    return shrunk * ((2 - shrunk) * signal - shrunk)
