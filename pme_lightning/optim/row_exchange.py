"""Sparse gradients over several processes: only the rows of the batches travel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from pme_lightning.optim.sparse_gradients import coalesced
from pme_lightning.processes.pieces import lengths_of, pieces_of
from pme_lightning.sixteen_bits import widened


@torch.no_grad()
def average_rows(parameters: Iterable[Tensor]) -> None:
    """Gives the sparse gradients of every process their mean over processes, as data parallel training does dense ones.

    Each process sends the rows of its own batch to all others: what travels grows with the batch, not with the table.
    Rows are added up in the order of the processes, so the result is the same everywhere, to the last bit.

    Args:
        parameters: Those whose gradients are sparse, the same in every process; one without a gradient here counts as
            zero.
    """
    processes = dist.get_world_size()
    for parameter in parameters:
        grad = parameter.grad
        if grad is None:
            rows, values = parameter.new_empty(0, dtype=torch.int64), parameter.new_empty(0, *parameter.shape[1:])
        else:
            grad = coalesced(grad)
            rows, values = grad._indices()[0], grad._values()
        lengths = lengths_of(rows)
        all_rows = torch.cat(pieces_of(rows, lengths))
        all_values = widened(torch.cat(pieces_of(values, lengths))).div_(processes)
        mean = torch.sparse_coo_tensor(all_rows[None], all_values, parameter.shape, check_invariants=False).coalesce()
        parameter.grad = mean.to(parameter.dtype)
