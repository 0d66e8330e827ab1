"""Writes values that were computed in 32 bits to where they are stored: as they are, or rounded at random to 16."""

from __future__ import annotations

import torch
from torch import Tensor

from pme_lightning.sixteen_bits import Chance, rounded_at_random


def chance_of(parameter: Tensor, number: int, step: int) -> Chance | None:
    """Returns what the values of a parameter are rounded by in a step; ``None`` where they have 32 bits.

    Args:
        parameter: The parameter.
        number: Its number among those of its optimizer, each of which is rounded by other chance.
        step: The number of the step.
    """
    return Chance((step << 8) + number, parameter.device) if parameter.dtype == torch.bfloat16 else None


def store(tensor: Tensor, values: Tensor, chance: Chance | None) -> None:
    """Writes all values of a tensor; values of 32 bits that were worked on in place are there already."""
    if values is not tensor:
        tensor.copy_(_as_stored(values, tensor, chance))


def store_rows(table: Tensor, rows: Tensor, values: Tensor, chance: Chance | None) -> None:
    """Writes the values ``(n, ...)`` of some rows ``(n,)`` of a table."""
    values = _as_stored(values, table, chance)
    # On a processor scatter may be the faster one for single values, but not of 16 bits, where it takes thirty times as
    # long as index_copy.
    if table.ndim == 1 and table.dtype != torch.bfloat16:
        table.scatter_(0, rows, values)
    else:
        table.index_copy_(0, rows, values)


def _as_stored(values: Tensor, table: Tensor, chance: Chance | None) -> Tensor:
    if table.dtype != torch.bfloat16:
        return values
    assert chance is not None
    return rounded_at_random(values, chance)
