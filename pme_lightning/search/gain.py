"""What values are worth: what they save in log loss once they are trained, less what their noise costs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Twice the log loss of a row whose model knows nothing (p = 1/2): scores are in units of half a nat.
_MOST_OF_A_ROW = 2 * math.log(2)


def signal_to_noise(told: Tensor, squares: Tensor, frequencies: Tensor) -> Tensor:
    """Returns the signal to noise ``(n, K)`` of what training on all rows can learn about the values of tokens.

    Args:
        told: ``(n, K)``: what one row tells about each value beyond those before it.
        squares: ``(n, K)``: what the squares of the values are expected to be.
        frequencies: ``(n,)``: rows of each token in the training split.
    """
    return frequencies.double().unsqueeze(1) * _one_by_one(told * squares)


def _one_by_one(saved: Tensor) -> Tensor:
    """Returns what each value ``(n, K)`` saves a row beside those before it, which together save no more than all."""
    together = -_MOST_OF_A_ROW * torch.expm1(saved.cumsum(1) / -_MOST_OF_A_ROW)
    # Where nothing is left to save, rounding makes some of it negative.
    return torch.cat([together[:, :1], together.diff(dim=1)], 1).clamp(min=0)


def said_once(signal: Tensor, first: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the signals of a token's values and of its first-order weight, what both say counted once.

    Of the first-order weight and the best value the more informative one counts in full. Of the other what remains is
    the share that the first cannot say as well.

    Args:
        signal: ``(n, D)``: of values.
        first: ``(n, 1)``: of first-order weights.
        shared: ``(D,)``: the share of each value that the first-order weight says as well, and the other way round.
    """
    best = signal.max(dim=1, keepdim=True)
    value_first = best.values >= first
    alone = torch.where(value_first, first * (1 - shared[best.indices]), first)
    return torch.where(value_first, signal, signal * (1 - shared)), alone


def gain(signal: Tensor, usual: Tensor) -> Tensor:
    """Returns what values save once they are trained, less what their noise costs.

    A value of signal to noise ``s`` that training shrinks to the share ``r`` of where its rows would take it saves
    ``r ((2 - r) s - r)``: at most ``s² / (1 + s)``, by the ``s / (1 + s)`` that is right for it alone. Training does
    not know each value's own; what it shrinks by is taken to lie halfway between that and what is right for the usual
    value of its field and axis. So a frequent token's value that is next to nothing costs more than it saves.
    """
    middle = (signal * usual).sqrt()
    shrunk = middle / (1 + middle)
    return shrunk * ((2 - shrunk) * signal - shrunk)
