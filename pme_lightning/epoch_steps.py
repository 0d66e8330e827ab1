"""How many optimizer steps an epoch has, and of how many rows."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

from lightning.pytorch import Trainer

from pme_lightning.search.schedules import Epoch


def optimizer_steps(batches: float, accumulate_grad_batches: int) -> int:
    """Returns the optimizer steps of so many batches: the last ones make a step even where they are fewer.

    >>> optimizer_steps(10, accumulate_grad_batches=4)
    3
    """
    return max(1, math.ceil(batches / accumulate_grad_batches))


def expected_steps(trainer: Trainer, datamodule: Any, rows: int) -> int | None:
    """Returns the optimizer steps of an epoch, or one less, before any loader is made.

    Args:
        trainer: It trains.
        datamodule: It may tell its ``batch_size``.
        rows: Training rows of all processes.

    Returns:
        The steps; ``None`` where no batch size is known.
    """
    batch_rows = step_rows(datamodule, trainer.world_size, accumulate_grad_batches=1)
    if batch_rows is None:
        return None
    batches, limit = rows // batch_rows, trainer.limit_train_batches
    if limit is not None:
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    return max(1, batches // trainer.accumulate_grad_batches)


def step_rows(datamodule: Any, processes: int, accumulate_grad_batches: int) -> int | None:
    """Returns the rows of an optimizer step of all processes; ``None`` if the data module has no ``batch_size``."""
    batch_size = getattr(datamodule, "batch_size", None)
    if not isinstance(batch_size, Integral) or batch_size < 1:
        return None
    return int(batch_size) * processes * accumulate_grad_batches


def epoch_of(trainer: Trainer) -> Epoch:
    """Returns the epoch that a Trainer goes through; it has its loaders."""
    accumulated = trainer.accumulate_grad_batches
    datamodule = getattr(trainer, "datamodule", None)
    rows = step_rows(datamodule, trainer.world_size, accumulated)
    return Epoch(optimizer_steps(trainer.num_training_batches, accumulated), rows)
