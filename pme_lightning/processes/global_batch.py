"""The batch that all processes see together in a step: its loss, whatever each of them has of it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def over_ranks(loss: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor | float]:
    """Weights the mean loss of this process's rows so that averaging over processes gives that of all their rows.

    Data parallel training averages gradients over processes. Where one has more rows than another (the last batch of
    an epoch), the average of their means is not the mean: each has to count by its rows.

    Args:
        loss: The mean over this process's rows.
        rows: How many they are.

    Returns:
        The loss to differentiate; the mean over the rows of all processes, to log; what the loss of each row is divided
        by in the first. In one process: the loss, the same, and ``rows``.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return loss, loss.detach(), float(rows)
    sums = torch.stack([loss.detach() * rows, loss.new_tensor(float(rows))])
    dist.all_reduce(sums)
    loss_rows = sums[1] / dist.get_world_size()
    return loss * (rows / loss_rows), sums[0] / sums[1], loss_rows
