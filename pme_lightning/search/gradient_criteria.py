"""Criteria that score each value by its weight and the gradients of some batches."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pme_lightning.embedding.row_chunks import row_chunks
from pme_lightning.errors import BadInput
from pme_lightning.search.axes import known_axes, principal_axes, squares_along
from pme_lightning.search.criterion import Scores, TableCriterion


class _GradientCriterion(TableCriterion):
    """A criterion with one accumulator per value: a sum over batches of ``g`` or ``g²``."""

    needs_gradients: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    per_token: ClassVar[tuple[str, ...]] = ("table", "linear")
    squared = True

    def start(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> None:
        self._table = torch.zeros_like(weight, requires_grad=False)
        self._linear = None if linear is None else torch.zeros_like(linear, requires_grad=False)

    @torch.no_grad()
    def update(self, weight_grad: Tensor, linear_grad: Tensor | None = None) -> None:
        if self._table is None:
            raise RuntimeError(f"{type(self).__name__}.update was called before start")
        if (linear_grad is None) != (self._linear is None):
            raise ValueError("first-order weights must be given to both start and update, or to neither")
        self._add(self._table, weight_grad, self.basis)
        if self._linear is not None and linear_grad is not None:
            self._add(self._linear, linear_grad, None)

    def _add(self, total: Tensor, grad: Tensor, basis: Tensor | None) -> None:
        if grad.is_sparse:
            grad = grad.coalesce()
            rows, values = grad.indices()[0], grad.values()
        elif basis is None:
            total.addcmul_(grad, grad) if self.squared else total.add_(grad)
            return
        else:
            # Most rows of a batch's gradient are zero, and rotating costs D operations per value.
            rows, values = grad.any(dim=1).nonzero().squeeze(1), None
        for part in row_chunks(0, len(rows)):
            summands = (grad[rows[part]] if values is None else values[part]).to(total.dtype)
            if basis is not None:
                summands = summands @ basis
            total.index_add_(0, rows[part], summands.square() if self.squared else summands)

    def _sums(self, linear: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns the sums for the values, and for the first-order weights if there are any."""
        if self._table is None:
            raise RuntimeError(f"{type(self).__name__} was asked for scores before start and update")
        if self._linear is not None and linear is None:
            raise ValueError("the first-order weights given to start are missing")
        return self._table, self._linear


class Saliency(_GradientCriterion):
    """Saliency of each value, as used for pruning at initialization.

    Power 1 is SNIP, ``|w · Σ g|`` (Lee, Ajanthan, Torr 2019, arXiv:1810.02340): the first-order change of the
    loss when the value is removed. Power 2 is ``w² · Σ g²``, in which batches do not cancel out.

    Args:
        power: 1 or 2.

    Raises:
        BadInput: another power.
    """

    def __init__(self, power: Literal[1, 2] = 1) -> None:
        super().__init__()
        if power not in (1, 2):
            raise BadInput(f"Saliency: power is {power!r}; it must be 1 or 2")
        self.power = power
        self.squared = power == 2

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        table, column = self._sums(linear)
        return Scores(
            table=self._score(weight, table),
            linear=None if column is None or linear is None else self._score(linear, column)[:, 0],
        )

    def _score(self, weight: Tensor, total: Tensor) -> Tensor:
        return weight.square().mul_(total) if self.squared else (weight * total).abs_()


class Fisher(_GradientCriterion):
    """Second-order estimate of the cost of removing a value: ``w² · Σ g²`` over batches.

    This is the second-order Taylor term with the empirical Fisher information in place of the Hessian (Theis et
    al. 2018, arXiv:1801.05787; Molchanov et al. 2019, arXiv:1906.10771). With principal axes, table and gradients
    are first rotated to the eigenvectors of ``Σ_v freq_v w_v w_vᵀ``, in which the leading values of a row carry most
    of its energy. First-order weights are one value per token and are never rotated.

    Args:
        axes: ``original`` or ``principal``.

    Raises:
        BadInput: unknown axes; or, on start, a table that is not finite.

    Examples:
        >>> weight, frequencies = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([5, 1])
        >>> fisher = Fisher(axes="original")
        >>> fisher.start(weight, None, frequencies)
        >>> fisher.update(torch.tensor([[1.0, 0.5], [2.0, 0.0]]))  # the gradient of a batch
        >>> fisher.scores(weight, None, frequencies).table
        tensor([[1., 1.],
                [0., 0.]])
    """

    def __init__(self, axes: Literal["original", "principal"] = "principal") -> None:
        super().__init__()
        self.axes = known_axes("Fisher", axes)

    def start(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> None:
        super().start(weight, linear, frequencies)
        self.basis = principal_axes(weight, frequencies, self.tokens) if self.axes == "principal" else None

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        table, column = self._sums(linear)
        return Scores(
            table=squares_along(weight, self.basis).mul_(table),
            linear=None if column is None or linear is None else linear.square().mul_(column)[:, 0],
            basis=self.basis,
        )
