"""The figures that show how a phase is doing: loss, AUC, rows a second, what is kept."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from pme_lightning.measures import MEASURES
from pme_lightning.module import CTRModule
from pme_lightning.progress.position import kept_fraction, search_of
from pme_lightning.progress.throughput import Throughput


class Figures(Throughput):
    """Measures speed and mean training loss of an epoch, and reads the other figures off the Trainer and the module.

    The callback that shows the figures passes its hooks on; this is no callback of the Trainer itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loss: Tensor | None = None
        self._batches = 0
        self._validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch, and counts from 0."""
        super().on_train_epoch_start(trainer, pl_module)
        self.rows, self.seconds = 0, 0.0
        self._loss, self._batches = None, 0
        self._validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a batch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        # What Lightning hands on is divided by the batches of a step, and of this process's rows alone. A tensor where
        # the model is: a number of it would wait for the batch.
        loss = cast(CTRModule, pl_module).batch_loss
        self._loss = loss if self._loss is None else self._loss + loss
        self._batches += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the validation out of the speed, and notes that this epoch was measured."""
        super().on_validation_end(trainer, pl_module)
        self._validated = True

    def for_line(self, trainer: Trainer, pl_module: LightningModule, ended: bool) -> list[str]:
        """Returns the figures for a line of a log.

        Args:
            trainer: The phase's Trainer.
            pl_module: The module.
            ended: Whether the epoch is over, and the validation was at its end.
        """
        figures = [] if self._loss is None else [self._mean_loss()]
        # The Trainer keeps the metrics of the epochs before.
        metrics = trainer.callback_metrics if ended and self._validated else {}
        measured = {measure.label: metrics.get(f"valid_{measure.key}") for measure in MEASURES}
        figures += [f"{label} {float(value):.4f}" for label, value in measured.items() if value is not None]
        if self.rows_per_second:
            figures.append(f"{self.rows_per_second:,.0f} rows/s")
        kept, search = kept_fraction(trainer, pl_module), search_of(trainer)
        if kept < 1 and search is not None and search.result is None:
            figures.append(f"kept {kept:.1%}")
        return figures

    def for_bar(self, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Returns the figures for a bar, which has little room: speed, AUC (before the first: loss), what is kept."""
        figures = [f"{self.rows_per_second:,.0f} rows/s"] if self.rows_per_second else []
        auc = trainer.callback_metrics.get("valid_auc")
        if auc is not None:
            figures.append(f"AUC {float(auc):.4f}")
        elif self._loss is not None:
            figures.append(self._mean_loss())
        return [*figures, f"kept {kept_fraction(trainer, pl_module):.0%}"]

    def _mean_loss(self) -> str:
        assert self._loss is not None
        return f"loss {float(self._loss) / self._batches:.4f}"
