"""Reads rows of a multi-size table; the gradient covers the values of the batch's distinct tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.projection import groups_of
from pme_lightning.embedding.row_lookup import rows_at, sparse_gradient
from pme_lightning.embedding.token_rows import token_rows
from pme_lightning.sixteen_bits import widened

if TYPE_CHECKING:
    from pme_lightning.embedding.multi_size import MultiSizeEmbedding


class MultiSizeLookup(torch.autograd.Function):
    """Reads rows of all sizes and projects them; each distinct token of the batch is read and projected once.

    All values are one parameter, so that an optimizer step is one operation, not one for each of some thirty tables.
    This needs a custom gradient: autograd would fill a gradient of full length for each table that is sliced out.
    """

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, values: Tensor, projection: Tensor, layout: MultiSizeEmbedding
    ) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings ``(n, D)`` and first-order weights ``(n,)`` of tokens ``(n,)``, numbered by size.

        The tokens are those of ids ``(B, F)``, row by row: if each field has a projection, this determines their field.
        """
        distinct = DistinctTokens.of(positions)
        owned = token_rows(layout, distinct.tokens)
        rows = widened(owned.padded(values))
        ctx.layout, ctx.distinct, ctx.owned = layout, distinct, owned
        ctx.save_for_backward(rows, projection)
        places = distinct.places
        ctx.groups = groups_of(distinct, projection)
        own = rows[:, int(layout.first_order) :]
        embeddings = rows_at(places, ctx.groups.times(own, projection))
        # For single contiguous values, index_select is several times faster than embedding.
        return embeddings, rows[:, 0].contiguous().index_select(0, places) if layout.first_order else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_embeddings: Tensor, grad_linear: Tensor | None) -> tuple[Any, ...]:
        """Returns the gradients of the values, each token's at its position, and of the projection."""
        rows, projection = ctx.saved_tensors
        layout, distinct = ctx.layout, ctx.distinct
        first = int(layout.first_order)
        grad_distinct = distinct.sum(grad_embeddings)
        grad_projection = ctx.groups.products(rows[:, first:], grad_distinct) if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[1]:
            return None, None, grad_projection, None
        grad_rows = torch.empty_like(rows)
        grad_rows[:, first:] = ctx.groups.times(grad_distinct, projection.transpose(-1, -2))
        if grad_linear is not None:
            grad_rows[:, :1] = distinct.sum(grad_linear.unsqueeze(-1))
        grad_rows = grad_rows.to(layout.dtype)
        if not layout.sparse:
            return None, ctx.owned.spread(grad_rows, layout.values), grad_projection, None
        grad = sparse_gradient(ctx, ctx.owned.places(), ctx.owned.flat(grad_rows), layout.values.shape)
        return None, grad, grad_projection, None
