"""Prunes a table in place, a part of the way to the budget: what a search that prunes step by step does."""

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
    """Prunes values of a table, and turns it to the axes of the scores before.

    Args:
        scoring: The table, and what scores and allocates.
        progress: How far: 0 keeps everything, 1 would prune to the budget.
        values: How many per-token values the budget leaves.
        optimizers: Of the table; what they keep of its values is turned with it.

    Returns:
        The fraction of the per-token values that is kept.

    Raises:
        BadInput: The scores are along other axes, and the criterion cannot go on along those of the turned table.
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
    """Turns the table to other axes: its rows are coordinates then, and the criterion's axes those of the table."""
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
