"""Reads rows of a table that is split over processes; each process gets the gradient of the rows that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.exchange import RowExchange
from pme_lightning.embedding.projection import groups_of
from pme_lightning.embedding.row_lookup import as_gradient, rows_at
from pme_lightning.embedding.token_rows import each_value, places_of_classes
from pme_lightning.sixteen_bits import widened

if TYPE_CHECKING:
    from pme_lightning.embedding.full import FullEmbedding
    from pme_lightning.embedding.multi_size import MultiSizeEmbedding


class ShardRowLookup(torch.autograd.Function):
    """:class:`~pme_lightning.embedding.row_lookup.RowLookup` for a full-size table that is split over processes.

    The gradient of a row is the sum over the processes that read it, divided by the number of all processes: the mean
    over processes, as in data parallel training.
    """

    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, linear: Tensor | None, table: FullEmbedding
    ) -> tuple[Tensor, Tensor | None]:
        """Returns rows ``(B, F, D)`` and first-order weights ``(B, F)`` of ids ``(B, F)``, from the whole table."""
        assert table.shard is not None
        exchange = RowExchange(ids.reshape(-1), table.shard, table.num_tokens)
        own = weight.index_select(0, exchange.asked)
        if linear is not None:
            own = torch.cat([linear.index_select(0, exchange.asked), own], 1)
        rows = widened(exchange.answers(own))
        ctx.table, ctx.exchange = table, exchange
        ctx.shapes = weight.shape, None if linear is None else linear.shape
        places = exchange.distinct.places.view(ids.shape)
        embeddings = rows_at(places, rows[:, int(linear is not None) :])
        return embeddings, None if linear is None else F.embedding(places, rows[:, :1]).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rows: Tensor, grad_linear: Tensor | None) -> tuple[Any, ...]:
        """Returns the gradients of the rows and of the first-order weights that this process holds."""
        table, exchange = ctx.table, ctx.exchange
        (rows_shape, linear_shape), distinct = ctx.shapes, exchange.distinct
        parts = [distinct.sum(grad_rows.reshape(-1, rows_shape[1]))]
        if linear_shape is not None:
            assert grad_linear is not None
            parts.insert(0, distinct.sum(grad_linear.reshape(-1, 1)))
        if table.held_observer is not None:
            parts.append(distinct.counts.to(parts[0]).unsqueeze(1))
        returned = exchange.returned(torch.cat(parts, 1))
        held = DistinctTokens.of(exchange.asked)
        means = held.sum(returned).div_(table.shard.processes)
        first = int(linear_shape is not None)
        if table.held_observer is not None:
            means, counts = means[:, :-1], (means[:, -1] * table.shard.processes).round()
            table.held_observer(held.tokens, means[:, first:], means[:, 0] if first else None, counts)
        means = means.to(table.dtype)
        gradients: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[1]:
            gradients[0] = as_gradient(ctx, held.tokens, means[:, first:].contiguous(), rows_shape, table.sparse)
        if linear_shape is not None and ctx.needs_input_grad[2]:
            gradients[1] = as_gradient(ctx, held.tokens, means[:, :1].contiguous(), linear_shape, table.sparse)
        return None, *gradients, None


class ShardMultiSizeLookup(torch.autograd.Function):
    """The lookup of a multi-size table that is split over processes: only the values that rows own are sent.

    The process that reads rows projects them. Its gradient of the projection is that of its own batch; data parallel
    training averages it like those of the network. Gradients of the values are averaged here.
    """

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, values: Tensor, projection: Tensor, layout: MultiSizeEmbedding
    ) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings ``(n, D)`` and first-order weights ``(n,)`` of tokens ``(n,)``, numbered by size.

        The tokens are those of ids ``(B, F)``, row by row: if each field has a projection, this determines their field.
        """
        assert layout.shard is not None
        assert layout.whole_ends is not None
        exchange = RowExchange(positions, layout.shard, layout.num_tokens)
        first, dim = int(layout.first_order), layout.embedding_dim
        kinds = torch.searchsorted(layout.whole_ends, exchange.tokens.long(), right=True)
        wanted, begin, _ = layout.class_places[kinds].unbind(1)
        widths, held = _held_values(layout, exchange.asked)
        flat = widened(exchange.answers(values.index_select(0, held), (widths, wanted)))
        rows = flat.new_zeros(len(wanted), first + dim)
        number, column = each_value(wanted)
        places = number * rows.shape[1] + begin[number] + column
        rows.view(-1).index_copy_(0, places, flat)
        ctx.layout, ctx.exchange, ctx.widths = layout, exchange, (widths, wanted)
        ctx.save_for_backward(rows, projection, places, held)
        each = exchange.distinct.places
        ctx.groups = groups_of(exchange.distinct, projection)
        own = rows[:, first:]
        embeddings = rows_at(each, ctx.groups.times(own, projection))
        return embeddings, F.embedding(each, rows[:, :1]).squeeze(-1) if first else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_embeddings: Tensor, grad_linear: Tensor | None) -> tuple[Any, ...]:
        """Returns the gradients of the values that this process holds, and of the projection."""
        rows, projection, places, held = ctx.saved_tensors
        layout, exchange = ctx.layout, ctx.exchange
        first, distinct = int(layout.first_order), exchange.distinct
        grad_distinct = distinct.sum(grad_embeddings)
        grad_projection = ctx.groups.products(rows[:, first:], grad_distinct) if ctx.needs_input_grad[2] else None
        grad_rows = torch.empty_like(rows)
        grad_rows[:, first:] = ctx.groups.times(grad_distinct, projection.transpose(-1, -2))
        if first:
            assert grad_linear is not None
            grad_rows[:, :1] = distinct.sum(grad_linear.unsqueeze(-1))
        returned = exchange.returned(grad_rows.view(-1).index_select(0, places), ctx.widths)
        returned.div_(layout.shard.processes)
        if not ctx.needs_input_grad[1]:
            return None, None, grad_projection, None
        if layout.sparse:
            shape = layout.values.shape
            grad = torch.sparse_coo_tensor(held[None], returned, shape, check_invariants=False).coalesce()
        else:
            grad = returned.new_zeros(layout.values.shape).index_add_(0, held, returned)
        return None, grad.to(layout.dtype), grad_projection, None


def _held_values(layout: MultiSizeEmbedding, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how many values each of the rows has that this process holds, and where all of them stand, row by row."""
    places = places_of_classes(layout.held, layout.first_order).to(rows.device)
    widths, _, shifts = places[torch.searchsorted(layout.ends, rows, right=True)].unbind(1)
    number, column = each_value(widths)
    return widths, (shifts + rows * widths)[number] + column
