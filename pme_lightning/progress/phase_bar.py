"""How far a phase has come, as a bar on a terminal."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from pme_lightning.progress.phase_lines import PhaseLines
from pme_lightning.progress.position import progress_of, search_of

# A figure on a GPU makes the processor wait for it: the bar asks seldom.
_SECONDS_BETWEEN_LOOKS = 0.5


class PhaseBar(PhaseLines):
    """A bar below the lines, with what the phase does, time left, rows/s, the last validation AUC, what is kept.

    The bar is that of the epoch; in a search, whose length is known, that of the whole of it.

    Args:
        phase: Name of the phase.
        console: Where to; ``None``: standard output.
    """

    def __init__(self, phase: str, console: Console | None = None) -> None:
        super().__init__(phase)
        self._console = console
        self._progress: Progress | None = None
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._looked = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Shows the bar before the first batch is done."""
        if trainer.is_global_zero and self._training is None:
            done, total = progress_of(trainer, batch_idx)
            self._training = self._bars().add_task(
                self._named(trainer), total=_known(total), completed=done, figures=""
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the bar afresh, except in a search."""
        super().on_train_epoch_start(trainer, pl_module)
        if self._progress is not None and self._training is not None:
            if search_of(trainer) is None:
                self._progress.reset(self._training, total=_known(trainer.num_training_batches))
            self._progress.update(self._training, description=self._named(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar on."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        now = time.monotonic()
        if self._progress is None or self._training is None:
            return
        if now - self._looked >= _SECONDS_BETWEEN_LOOKS or trainer.is_last_batch:
            self._looked = now
            figures = "  ".join(self.figures.for_bar(trainer, pl_module))
            done = progress_of(trainer, batch_idx + 1)[0]
            self._progress.update(self._training, completed=done, figures=figures)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Shows a bar of the validation."""
        self._evaluate(trainer, "validation", trainer.num_val_batches, batch_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Shows a bar of the test."""
        self._evaluate(trainer, "test", trainer.num_test_batches, batch_idx)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Shows a bar of the prediction."""
        self._evaluate(trainer, "prediction", trainer.num_predict_batches, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the bar of the validation away."""
        super().on_validation_end(trainer, pl_module)
        if self._progress is not None and self._evaluation is not None:
            self._progress.remove_task(self._evaluation)
            self._evaluation = None
            if self._training is not None:
                self._progress.update(self._training, visible=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the terminal back."""
        self._stop()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the terminal back, and says what a search found."""
        self._stop()
        super().on_fit_end(trainer, pl_module)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._progress is None:
            super().say(text)
        else:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _bars(self) -> Progress:
        if self._progress is None:
            one_line = Column(no_wrap=True)
            self._progress = Progress(
                TextColumn("{task.description}", markup=False, table_column=one_line.copy()),
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                _TimeLeft(table_column=one_line.copy()),
                TextColumn("{task.fields[figures]}", markup=False, table_column=one_line.copy()),
                console=self._console or Console(),
                refresh_per_second=4,
                transient=True,
            )
            self._progress.start()
        return self._progress

    def _evaluate(self, trainer: Trainer, what: str, batches: list[int | float], batch_idx: int) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        if self._evaluation is None:
            if self._training is not None:
                self._bars().update(self._training, visible=False)
            self._evaluation = self._bars().add_task(f"{self.phase}: {what}", total=_known(sum(batches)), figures="")
        assert self._progress is not None
        self._progress.update(self._evaluation, completed=batch_idx)

    def _named(self, trainer: Trainer) -> str:
        if search_of(trainer) is not None:
            return self.phase
        epochs = trainer.max_epochs
        return f"{self.phase} {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._training = self._evaluation = None


def _known(total: float) -> float | None:
    """Returns how much there is to do; ``None``, for which a bar pulses, where rows come without an end."""
    return total if math.isfinite(total) else None


class _TimeLeft(ProgressColumn):
    """The time that is left, as ``0:12 left``; nothing before it can be told."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Returns the text for a task."""
        left = task.time_remaining
        if left is None:
            return Text("")
        minutes, seconds = divmod(int(left), 60)
        hours, minutes = divmod(minutes, 60)
        return Text((f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{seconds:02} left")
