"""Keeps the few numbers of a fit that its curves are drawn from, whether or not a logger is on."""

from __future__ import annotations

import math
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from pme_lightning.module import CTRModule

# A point is the mean over so much of an epoch; where points are too many, neighbours are merged.
_POINTS_PER_EPOCH = 20
_MOST_POINTS = 200


class TrainingCurve(Callback):
    """Training loss along a fit, and what each validation measured.

    Attributes:
        loss: ``(epochs trained so far, mean training loss since the point before)``, at most 200 of them.
        valid: ``(epochs trained so far, AUC, logloss)`` of each validation, in order.
    """

    def __init__(self) -> None:
        self.loss: list[tuple[float, float]] = []
        self.valid: list[tuple[float, float, float]] = []
        self._batches = 0
        self._sum: Tensor | float = 0.0
        self._summed = 0
        self._merged = 1

    def state_dict(self) -> dict[str, Any]:
        """What was kept so far."""
        return {
            "loss": [list(point) for point in self.loss],
            "valid": [list(point) for point in self.valid],
            "batches": self._batches,
            "sum": float(self._sum),
            "summed": self._summed,
            "merged": self._merged,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the curve of an interrupted fit."""
        self.loss = [(epochs, loss) for epochs, loss in state_dict["loss"]]
        self.valid = [(epochs, auc, logloss) for epochs, auc, logloss in state_dict["valid"]]
        self._batches, self._sum = state_dict["batches"], state_dict["sum"]
        self._summed, self._merged = state_dict["summed"], state_dict["merged"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the batch's loss to the sum, on its device; enough of them make a point."""
        self._batches += 1
        self._sum = self._sum + cast(CTRModule, pl_module).batch_loss.double()
        self._summed += 1
        if self._summed >= math.ceil(trainer.num_training_batches / _POINTS_PER_EPOCH) * self._merged:
            self._add_point(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps what a validation within the fit measured."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            auc, logloss = (float(trainer.callback_metrics[f"valid_{name}"]) for name in ("auc", "logloss"))
            self.valid.append((self._epochs(trainer), auc, logloss))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes a point of what is left."""
        if self._summed:
            self._add_point(trainer)

    def _add_point(self, trainer: Trainer) -> None:
        self.loss.append((self._epochs(trainer), float(self._sum) / self._summed))
        self._sum, self._summed = 0.0, 0
        if len(self.loss) > _MOST_POINTS and len(self.loss) % 2 == 0:
            # All of them span equally many batches: the mean of two is that of their batches.
            pairs = zip(self.loss[0::2], self.loss[1::2], strict=True)
            self.loss = [(later[0], (before[1] + later[1]) / 2) for before, later in pairs]
            self._merged *= 2

    def _epochs(self, trainer: Trainer) -> float:
        return self._batches / trainer.num_training_batches
