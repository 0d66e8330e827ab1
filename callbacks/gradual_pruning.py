"""Prunes a table in place, part of the way to the budget, for a search that prunes step by step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from pme_lightning.callbacks.table_scores import TableScores
from pme_lightning.errors import BadInput
from pme_lightning.optim import turn_state
from pme_lightning.search import keep_fraction


@torch.no_grad()
def prune_toward(scoring: TableScores, progress: float, values: int, optimizers: list[Optimizer]) -> float:
    """Rotates a table to the axes of the scores, and prunes its values.

    Args:
        scoring: The table, with its criterion and allocator.
        progress: How far: 0 keeps everything, 1 would prune to the budget.
        values: How many per-token values the budget leaves.
        optimizers: The optimizers of the table; their state for its values is rotated with it.

    Returns:
        The fraction of the per-token values that is kept.

    Raises:
        BadInput: The scores are along other axes, and the criterion cannot continue with a rotated table.
    """
    embedding, scores = scoring.embedding, scoring.scored()
    total = embedding.num_parameters
    allocation = scoring.allocate(scores, round(total * keep_fraction(progress, values / total)))
    if scores.basis is not None:
        _turn(scoring, scores.basis, optimizers)
    embedding.prune_(scoring.allocator.kept(scores.table, allocation.sizes), allocation.linear)
    linear_kept = 0 if allocation.linear is None else int(allocation.linear.sum())
    return scoring.tokens.total(int(allocation.sizes.sum()) + linear_kept) / total


def _turn(scoring: TableScores, basis: Tensor, optimizers: list[Optimizer]) -> None:
    """Rotates the table to other axes: its rows become coordinates, and the criterion uses the axes of the table."""
    embedding, criterion = scoring.embedding, scoring.criterion
    if criterion.axes is None or basis.ndim == 3:
        lacks = "has no `axes` to set to 'original' once it is turned"
        raise BadInput(
            f"search.criterion {type(criterion).__name__} turns the table and "
            f"{lacks if criterion.axes is None else 'has axes for each field'}: prune once, with search.schedule "
            "AfterWarmup"
        )
    embedding.rotate_(basis)
    for optimizer in optimizers:
        turn_state(optimizer, embedding.weight, basis)
    criterion.turned_from = criterion.turned_from or criterion.axes
    criterion.axes = "original"
