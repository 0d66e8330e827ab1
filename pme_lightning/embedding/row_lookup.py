"""Reads rows of a full-size table; the gradient covers the batch's distinct tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.sixteen_bits import widened


class RowLookup(torch.autograd.Function):
    """``F.embedding`` of rows and first-order weights in one call, with a cheaper gradient.

    Autograd's dense gradient adds row after row to a table of zeros. Its sparse gradient has a row for each occurrence
    of a token, and leaves it to the optimizer to add them up. Here, they are added up once for rows and first-order
    weights together. A sparse gradient is coalesced: each row occurs once. Rows have 32 bits per value, whatever the
    table has; gradients have the type of the table.
    """

    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, linear: Tensor | None, sparse: bool, distinct: DistinctTokens | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns rows ``(B, F, D)`` and first-order weights ``(B, F)`` of ids ``(B, F)``.

        Args:
            ctx: Autograd's.
            ids: ``(B, F)`` integers in ``[0, V)``.
            weight: ``(V, D)``.
            linear: ``(V, 1)`` or None.
            sparse: Whether gradients are sparse COO tensors of the rows in the batch, or dense ones.
            distinct: The distinct tokens of the ids; None if no gradient is needed.
        """
        ctx.sparse = sparse
        ctx.shapes = weight.shape, None if linear is None else linear.shape
        ctx.dtype = weight.dtype
        ctx.distinct = distinct
        rows = widened(rows_at(ids, weight))
        if linear is None:
            return rows, None
        # For single values, index_select is several times faster than embedding.
        return rows, widened(linear.view(-1).index_select(0, ids.reshape(-1)).view(ids.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rows: Tensor, grad_linear: Tensor | None) -> tuple[Any, ...]:
        """Returns the gradients of the weight and of the first-order weights."""
        distinct: DistinctTokens = ctx.distinct
        rows = distinct.tokens.long()
        gradients: list[Tensor | None] = []
        for shape, needed, grad in zip(ctx.shapes, ctx.needs_input_grad[1:3], (grad_rows, grad_linear), strict=True):
            if shape is None or not needed or grad is None:
                gradients.append(None)
                continue
            summed = distinct.sum(grad.reshape(len(distinct.order), shape[1])).to(ctx.dtype)
            gradients.append(as_gradient(ctx, rows, summed, shape, ctx.sparse))
        return None, *gradients, None, None


def rows_at(ids: Tensor, table: Tensor) -> Tensor:
    """Returns the rows ``(..., D)`` of ids ``(...)`` in a table ``(V, D)``, as ``F.embedding`` does."""
    if not table.is_cuda:
        return F.embedding(ids, table)
    return _rows_by_wide_numbers(ids, table)


def _rows_by_wide_numbers(ids: Tensor, table: Tensor) -> Tensor:
    """Does the same in the way that is fast on a GPU.

    There, F.embedding starts one thread block per row, and so does indexing by rows; indexing single elements does not.
    The wider the elements, the better: the bytes are viewed as numbers of 16 bytes, or of 8.
    """
    size = table.shape[-1] * table.element_size()
    wide = next((dtype for dtype in (torch.complex128, torch.complex64) if size % dtype.itemsize == 0), table.dtype)
    # To torch, a slice of a single row is contiguous, but it may begin within a wide number.
    begins_within = table.storage_offset() * table.element_size() % wide.itemsize
    if begins_within or table.stride() != (table.shape[1], 1):
        table = table.clone(memory_format=torch.contiguous_format)
    cells = table.view(wide)
    columns = torch.arange(cells.shape[1], device=table.device)
    return cells[ids.unsqueeze(-1), columns].view(table.dtype)


def as_gradient(ctx: Any, rows: Tensor, values: Tensor, shape: torch.Size, sparse: bool) -> Tensor:
    """Returns the gradient of a table from those of its rows, each once and in ascending order."""
    if sparse:
        return sparse_gradient(ctx, rows, values, shape)
    return values.new_zeros(shape).index_copy_(0, rows, values)


def sparse_gradient(ctx: Any, rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """Returns a sparse gradient from rows that occur once, in ascending order.

    Args:
        ctx: Autograd's context of the backward pass that returns the gradient.
        rows: ``(n,)`` int64.
        values: ``(n, ...)``.
        shape: Shape of the parameter.
    """
    # Checks would cost more than the gradient.
    grad = torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=True, check_invariants=False)
    if grad.is_cuda:
        # If nothing else holds a gradient, autograd keeps it without the flag that its rows occur once, and checking
        # them makes the processor wait for the GPU. If something holds it, autograd keeps a copy, with the flag.
        ctx.held = (*getattr(ctx, "held", ()), grad)
    return grad
