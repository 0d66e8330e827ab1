"""Measures how many rows a second a fit trains, loading included and validation left out."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Rows per second of training, over all epochs: loading, forward, backward and optimizer.

    The first batch of the fit is left out: it pays for what is built once.

    Attributes:
        rows: Rows trained on, over all ranks.
        seconds: The time that took.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.seconds = 0.0
        self._last: float | None = None
        self._warm = False

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Measures on."""
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]

    @property
    def rows_per_second(self) -> float | None:
        """Rows per second; ``None`` before the second batch."""
        return self.rows / self.seconds if self.seconds else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch."""
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the time since the batch before, the loading of this one included."""
        now = time.perf_counter()
        if self._warm and self._last is not None:
            self.rows += len(batch[0]) * trainer.world_size
            self.seconds += now - self._last
        self._last, self._warm = now, True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a validation in the middle of an epoch out."""
        self._last = time.perf_counter()
