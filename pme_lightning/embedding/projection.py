"""Embeddings of a batch times a matrix: the same for all fields, or one for each."""

from __future__ import annotations

import torch
from torch import Tensor


def projected(rows: Tensor, matrix: Tensor) -> Tensor:
    """Returns ``rows @ matrix``.

    Args:
        rows: ``(B, F, D)``.
        matrix: ``(D, D)`` for all fields, or ``(F, D, D)``, one for each.

    Returns:
        ``(B, F, D)``, in the precision of the rows: autocast leaves it alone.
    """
    with torch.autocast(rows.device.type, enabled=False):
        if matrix.ndim == 2:
            return rows @ matrix
        return torch.bmm(rows.transpose(0, 1), matrix).transpose(0, 1)


def projected_tokens(rows: Tensor, matrix: Tensor, fields: Tensor | None) -> Tensor:
    """Returns ``rows @ matrix`` for rows of tokens in any order.

    Args:
        rows: ``(n, D)``.
        matrix: As in :func:`projected`.
        fields: ``(n,)``: the field of each; not needed where there is one matrix for all.
    """
    if matrix.ndim == 2:
        return rows @ matrix
    assert fields is not None
    found = torch.empty_like(rows)
    for field in fields.unique().tolist():
        own = fields == field
        found[own] = rows[own] @ matrix[field]
    return found
