"""Coordinates in which each value of a row says only what the values before it do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.errors import BadInput

# In float32 sums, gradients this similar are the same: one tells nothing beyond the other.
_ALIKE = 1e-6


@dataclass(frozen=True)
class InTurn:
    r"""What rows tell about the values of a field's tokens, taken in turn.

    Near its best row ``w*``, a token of ``n`` rows loses ``n/2 (w - w*)ᵀ I (w - w*)``, where ``I``, the mean of
    ``g gᵀ`` over the field's rows, is the Fisher information of one row. Values with correlated gradients share what
    can be saved: an earlier one says what a later one could say. With ``I = L diag(d) Lᵀ``, ``L`` unit lower
    triangular, and ``y = Lᵀ w``, this loss is ``n/2 Σ_k d_k (y_k - y*_k)²``. A token that keeps its first ``k`` values
    (the best values without the others) loses ``n/2 Σ_{j > k} d_j y*_j²``. So the savings of values add up, in the
    order in which they are kept, and the errors of the ``y_k`` due to the noise of rows are independent. ``y`` is 0
    beyond the last nonzero value.

    Attributes:
        told: float64 ``(F, D)``: ``d``, what one row tells about a value beyond what it tells about those before.
        factor: float64 ``(F, D, D)``: ``L``.
    """

    told: Tensor
    factor: Tensor

    @classmethod
    def of(cls, information: Tensor) -> InTurn:
        """Factorizes ``I``, float64 ``(F, D, D)``.

        Raises:
            BadInput: ``I`` is not finite.
        """
        if not bool(information.isfinite().all()):
            raise BadInput("gradients of rows are NaN or infinite: the search diverged; lower the learning rate")
        diagonal = information.diagonal(dim1=1, dim2=2)
        scale = torch.where(diagonal > 0, diagonal, 1).sqrt()
        # Rounding may make eigenvalues of the correlations negative: they are clamped.
        values, vectors = torch.linalg.eigh(information / scale.unsqueeze(1) / scale.unsqueeze(2))
        clamped = values.clamp(min=_ALIKE * information.shape[1]).unsqueeze(1)
        lower = torch.linalg.cholesky((vectors * clamped) @ vectors.mT) * scale.unsqueeze(2)
        pivots = lower.diagonal(dim1=1, dim2=2)
        return cls(torch.where(diagonal > 0, pivots.square(), 0), lower / pivots.unsqueeze(1))

    def values(self, field: int, rows: Tensor) -> Tensor:
        """Returns ``y`` ``(n, D)`` of rows ``(n, D)`` of a field, in float64."""
        return rows.double() @ self.factor[field]

    def gradients(self, field: int | slice, gradients: Tensor) -> Tensor:
        """Returns gradients at ``y``, given those at the values; ``(n, D)``, or ``(F, n, D)`` for all fields."""
        factor = self.factor[field].mT
        return torch.linalg.solve_triangular(factor, gradients.double(), upper=True, left=False, unitriangular=True)
