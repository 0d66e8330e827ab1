"""The figures that tell how a phase is doing, for whatever shows them: loss, AUC, rows a second, what is kept."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from pme_lightning.epoch_steps import optimizer_steps
from pme_lightning.measures import MEASURES
from pme_lightning.module import CTRModule
from pme_lightning.throughput import Throughput


class Figures(Throughput):
    """Measures speed and mean training loss of an epoch, and reads what else tells off the Trainer and the module.

    It is told what happens by the callback that shows the figures, and is no callback of the Trainer itself.
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

    def told(self, trainer: Trainer, pl_module: LightningModule, ended: bool) -> list[str]:
        """Returns the figures in words for a line of a log.

        Args:
            trainer: The phase's Trainer.
            pl_module: The module.
            ended: Whether the epoch is over, and what was measured is of its end.
        """
        told = [f"loss {float(self._loss) / self._batches:.4f}"] if self._loss is not None else []
        # The Trainer keeps what an epoch before has measured.
        metrics = trainer.callback_metrics if ended and self._validated else {}
        measured = {measure.label: metrics.get(f"valid_{measure.key}") for measure in MEASURES}
        told += [f"{label} {float(value):.4f}" for label, value in measured.items() if value is not None]
        if self.rows_per_second:
            told.append(f"{self.rows_per_second:,.0f} rows/s")
        kept, search = kept_fraction(trainer, pl_module), search_of(trainer)
        if kept < 1 and search is not None and search.result is None:
            told.append(f"kept {kept:.1%}")
        return told

    def shown(self, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        """Returns the figures for a bar, which has little room: speed, AUC (before the first: loss), what is kept."""
        shown = [f"{self.rows_per_second:,.0f} rows/s"] if self.rows_per_second else []
        auc = trainer.callback_metrics.get("valid_auc")
        if auc is not None:
            shown.append(f"AUC {float(auc):.4f}")
        elif self._loss is not None:
            shown.append(f"loss {float(self._loss) / self._batches:.4f}")
        return [*shown, f"kept {kept_fraction(trainer, pl_module):.0%}"]


def search_of(trainer: Trainer) -> Any | None:
    """Returns the callback that searches in this fit; ``None`` in a fit that is no search."""
    return next((each for each in trainer.callbacks if _is_search(each)), None)  # type: ignore[attr-defined]


def _is_search(callback: Callback) -> bool:
    return hasattr(callback, "num_steps") and hasattr(callback, "result")


def how_far(trainer: Trainer, batches: int) -> tuple[int, float]:
    """Returns how much is done, and of how much: steps of a search, whose length is known, or batches of the epoch.

    Args:
        trainer: The phase's Trainer.
        batches: How many batches of the epoch are done.
    """
    search = search_of(trainer)
    if search is None:
        return batches, float(trainer.num_training_batches)
    per_epoch = optimizer_steps(trainer.num_training_batches, trainer.accumulate_grad_batches)
    return trainer.global_step, float(search.num_steps(per_epoch))


def kept_fraction(trainer: Trainer, pl_module: LightningModule) -> float:
    """Returns which part of the full-size per-token values there is now: as far as a search has pruned, or after it."""
    search = search_of(trainer)
    if search is not None:
        return float(getattr(search, "kept_fraction", 1.0))
    module = cast(CTRModule, pl_module)
    return module.embedding.num_parameters / module.full_parameters


def searched(trainer: Trainer) -> str | None:
    """Returns in words what the search of this fit found; ``None`` if there was none, or it is not done."""
    search = search_of(trainer)
    if search is None or search.result is None:
        return None
    result = search.result
    sizes = result.sizes.double()
    share = f" ({search.kept_fraction:.1%})" if hasattr(search, "kept_fraction") else ""
    shared = result.projection_parameters
    beside = f" beside {shared:,} of projections" if result.axes == "field" and shared else ""
    return (
        f"kept {result.parameters:,} values{share}{beside}: sizes {int(sizes.min())} to {int(sizes.max())}, "
        f"mean {sizes.mean():.2f}, {(sizes == 0).double().mean():.0%} are 0"
    )
