"""Products of rows and a matrix, either the same for all fields or one for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.token_rows import each_value


def projected(rows: Tensor, matrix: Tensor) -> Tensor:
    """Returns ``rows @ matrix``.

    Args:
        rows: ``(B, F, D)``.
        matrix: ``(D, D)`` for all fields, or ``(F, D, D)``, one for each.

    Returns:
        ``(B, F, D)``.
    """
    if matrix.ndim == 2:
        return rows @ matrix
    return torch.bmm(rows.transpose(0, 1), matrix).transpose(0, 1)


def groups_of(distinct: DistinctTokens, projection: Tensor) -> OneGroup | FieldGroups | PaddedGroups:
    """Returns which distinct tokens of ids ``(B, F)`` share a matrix.

    Args:
        distinct: The distinct tokens of the ids, row by row.
        projection: ``(D, D)`` for all of them, or ``(F, D, D)``, one for each field.
    """
    if projection.ndim == 2:
        return OneGroup()
    groups = FieldGroups.of(distinct, len(projection))
    # One product per field is the fastest on a CPU; a GPU would take longer to start so many than to run them.
    return PaddedGroups.of(groups) if projection.is_cuda else groups


class OneGroup:
    """All distinct tokens of a batch share one matrix."""

    def times(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """Returns the rows ``(U, D)`` times the matrix ``(D, D)``."""
        return rows @ matrix

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Returns the product ``(D, D)`` of two tables ``(U, D)``, the left one transposed."""
        return left.T @ right


@dataclass(frozen=True)
class FieldGroups:
    """``U`` tokens, such as the distinct ones of a batch, grouped by field.

    Attributes:
        order: ``(U,)`` int64: the positions of the tokens, those of the first field first.
        counts: The number of tokens of each field.
    """

    order: Tensor
    counts: list[int]

    @classmethod
    def of(cls, distinct: DistinctTokens, num_fields: int) -> FieldGroups:
        """Groups the distinct tokens of ids ``(B, F)``, row by row, by the columns in which they occur."""
        return cls.of_fields(distinct.order.index_select(0, distinct.starts) % num_fields, num_fields)

    @classmethod
    def of_fields(cls, fields: Tensor, num_fields: int) -> FieldGroups:
        """Groups tokens whose fields ``(U,)`` are known."""
        return cls(fields.argsort(stable=True), torch.bincount(fields, minlength=num_fields).tolist())

    def times(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Returns the rows ``(U, D)``, each times the matrix ``(F, D, D)`` of its field."""
        found = torch.empty_like(rows, memory_format=torch.contiguous_format)
        parts = rows.index_select(0, self.order).split(self.counts)
        for part, matrix, out in zip(parts, matrices, found.split(self.counts), strict=True):
            torch.mm(part, matrix, out=out)
        return torch.empty_like(found).index_copy_(0, self.order, found)

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Returns the products ``(F, D, D)`` of the rows of each field in two tables, as :class:`OneGroup` does."""
        lefts, rights = (each.index_select(0, self.order).split(self.counts) for each in (left, right))
        return torch.stack([one.T @ other for one, other in zip(lefts, rights, strict=True)])


@dataclass(frozen=True)
class PaddedGroups:
    """Like :class:`FieldGroups`, but with one product for all fields, each padded with zeros to the largest.

    Attributes:
        shape: Number of fields, and of rows per field.
        slots: ``(U,)`` int64: the position of each token among these rows.
    """

    shape: tuple[int, int]
    slots: Tensor

    @classmethod
    def of(cls, groups: FieldGroups) -> PaddedGroups:
        """Gives each field as many slots as the largest field has tokens."""
        most = max(groups.counts)
        field, place = each_value(torch.tensor(groups.counts, device=groups.order.device))
        slots = torch.empty_like(groups.order).index_copy_(0, groups.order, field * most + place)
        return cls((len(groups.counts), most), slots)

    def times(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Returns the rows ``(U, D)``, each times the matrix ``(F, D, D)`` of its field."""
        return torch.bmm(self._padded(rows), matrices).flatten(0, 1).index_select(0, self.slots)

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Returns the products ``(F, D, D)`` of the rows of each field in two tables, as :class:`OneGroup` does."""
        return torch.bmm(self._padded(left).transpose(1, 2), self._padded(right))

    def _padded(self, rows: Tensor) -> Tensor:
        fields, most = self.shape
        padded = rows.new_zeros(fields * most, rows.shape[1])
        return padded.index_copy_(0, self.slots, rows).view(fields, most, rows.shape[1])
