"""What rows tell about the values of their tokens: on the full-size model, or on one that is pruned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowInformation:
    """What one row tells about the values of its tokens, field by field.

    Attributes:
        table: float64 ``(F, D)``: mean squared gradient of a row's loss at the embedding values.
        linear: float64 ``(F,)``: the same at the first-order weights; None without them.
        shared: float64 ``(F, D)``: squared correlation, over rows, of the gradients at an embedding value and at the
            first-order weight; None without them.
    """

    table: Tensor
    linear: Tensor | None = None
    shared: Tensor | None = None

    @classmethod
    def of_sums(
        cls, rows: Tensor, squares: Tensor, linear_squares: Tensor | None = None, products: Tensor | None = None
    ) -> RowInformation:
        """Makes it of sums over rows.

        Args:
            rows: how many.
            squares: ``(F, D)`` of the squared gradients at embedding values.
            linear_squares: ``(F,)`` of those at first-order weights.
            products: ``(F, D)`` of the products of both.
        """
        rows = rows.clamp(min=1)
        if linear_squares is None or products is None:
            return cls(squares / rows)
        both = squares * linear_squares.unsqueeze(1)
        shared = torch.where(both > 0, products.square() / both.clamp(min=1e-300), 0).clamp(max=1)
        return cls(squares / rows, linear_squares / rows, shared)

    def halfway(self, other: RowInformation) -> RowInformation:
        """Returns the geometric mean of this and another one, with the correlations of the other."""
        linear = None if self.linear is None or other.linear is None else (self.linear * other.linear).sqrt()
        return RowInformation((self.table * other.table).sqrt(), linear, other.shared)
