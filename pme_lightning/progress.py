"""How far a phase has come: a bar on a terminal, a plain line an epoch anywhere else."""

from __future__ import annotations

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only


def phase_progress(phase: str) -> Callback:
    """Returns the display of a phase: a bar on a terminal, lines anywhere else."""
    return PhaseBar(phase) if sys.stdout.isatty() else EpochLines(phase)


class PhaseBar(RichProgressBar):
    """Lightning's progress bar with the name of the phase before the epoch.

    Args:
        phase: Name of the phase.
    """

    def __init__(self, phase: str) -> None:
        super().__init__(leave=False)
        self.phase = phase

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        return f"{self.phase} {current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")

    @property
    def validation_description(self) -> str:
        return f"{self.phase}: validation"

    @property
    def test_description(self) -> str:
        return f"{self.phase}: test"


class EpochLines(Callback):
    """One line an epoch, for logs and pipes.

    Args:
        phase: Name of the phase.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch that goes on from its midst."""
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what the epoch brought."""
        figures = "".join(f", {name} {float(value):.4f}" for name, value in sorted(trainer.callback_metrics.items()))
        seconds = time.perf_counter() - self._started
        print(f"  {self.phase}: epoch {trainer.current_epoch + 1}{figures}, {seconds:.1f} s", flush=True)
