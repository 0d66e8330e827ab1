"""How far a phase has come, as plain lines: one an epoch, and a few within a long one."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from pme_lightning.progress.figures import Figures
from pme_lightning.progress.position import found_by_search, progress_of, search_of

# Lines within a long epoch: at most one a tenth of it, and none sooner than this after the last.
_SECONDS_BETWEEN_LINES = 30.0


class PhaseLines(Callback):
    """A few lines, for logs and pipes: one an epoch, in a long epoch one a tenth; of a search one a tenth at most.

    Args:
        phase: Name of the phase.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.figures = Figures()
        self._started = self._said = 0.0
        self._tenths = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, also of a phase that goes on from its midst."""
        self._start_clock(trainer, trainer.fit_loop.batch_idx + 1)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch."""
        self.figures.on_train_epoch_start(trainer, pl_module)
        if search_of(trainer) is None:
            self._start_clock(trainer, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Says how far a long epoch or search has come."""
        self.figures.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        is_due = time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES and not trainer.is_last_batch
        if is_due and trainer.is_global_zero and self._comes_to_a_tenth(trainer, batch_idx):
            self._tell(trainer, pl_module, ended=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the validation out of the speed."""
        self.figures.on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what the epoch brought."""
        if trainer.is_global_zero and (search_of(trainer) is None or self._comes_to_a_tenth(trainer, -1)):
            self._tell(trainer, pl_module, ended=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what a search found."""
        found = found_by_search(trainer)
        if found is not None and trainer.is_global_zero:
            self.say(f"  {self.phase}: {found}")

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)

    def _tell(self, trainer: Trainer, pl_module: LightningModule, ended: bool) -> None:
        self._said = time.monotonic()
        parts = [f"  {self.phase}: epoch {trainer.current_epoch + 1}"]
        if search_of(trainer) is not None:
            parts.append(f"{self._tenths:d}0% of the search")
        elif not ended:
            parts.append(f"{self._tenths:d}0% of it")
        parts += self.figures.for_line(trainer, pl_module, ended)
        if ended:
            seconds = self._said - self._started
            parts.append(f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s")
        self.say(", ".join(parts))

    def _start_clock(self, trainer: Trainer, batches: int) -> None:
        self._started = self._said = time.monotonic()
        self._tenths = self._tenths_of(trainer, batches)

    def _comes_to_a_tenth(self, trainer: Trainer, batch_idx: int) -> bool:
        before, self._tenths = self._tenths, self._tenths_of(trainer, batch_idx + 1)
        return self._tenths > before

    @staticmethod
    def _tenths_of(trainer: Trainer, batches: int) -> int:
        done, total = progress_of(trainer, batches)
        return int(10 * done / total) if total else 0
