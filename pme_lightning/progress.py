"""How far a phase has come: a bar on a terminal, and a plain line an epoch there and anywhere else."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from pme_lightning.figures import Figures, how_far, search_of, searched

# Lines within a long epoch: at most one a tenth of it, and none sooner than this after the last.
_SECONDS_BETWEEN_LINES = 30.0
# A figure on a GPU makes the processor wait for it: the bar asks seldom.
_SECONDS_BETWEEN_LOOKS = 0.5


def phase_progress(phase: str) -> Callback:
    """Returns the display of a phase: a bar on a terminal, lines anywhere else."""
    return PhaseBar(phase) if shows_bars() else PhaseLines(phase)


def shows_bars() -> bool:
    """Whether standard output can show what moves: a terminal, and not one that is dumb."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


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
        waited = time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES
        if (
            waited
            and trainer.is_global_zero
            and not trainer.is_last_batch
            and self._comes_to_a_tenth(trainer, batch_idx)
        ):
            self._tell(trainer, pl_module, ended=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the validation out of the speed."""
        self.figures.on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what the epoch brought."""
        batches = int(trainer.num_training_batches)
        if trainer.is_global_zero and (search_of(trainer) is None or self._comes_to_a_tenth(trainer, batches - 1)):
            self._tell(trainer, pl_module, ended=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what a search found."""
        found = searched(trainer)
        if found is not None and trainer.is_global_zero:
            self.say(f"  {self.phase}: {found}")

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)

    def _tell(self, trainer: Trainer, pl_module: LightningModule, ended: bool) -> None:
        self._said = time.monotonic()
        told = [f"  {self.phase}: epoch {trainer.current_epoch + 1}"]
        if search_of(trainer) is not None:
            told.append(f"{self._tenths:d}0% of the search")
        elif not ended:
            told.append(f"{self._tenths:d}0% of it")
        told += self.figures.told(trainer, pl_module, ended)
        if ended:
            seconds = self._said - self._started
            told.append(f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s")
        self.say(", ".join(told))

    def _start_clock(self, trainer: Trainer, batches: int) -> None:
        self._started = self._said = time.monotonic()
        self._tenths = self._tenths_of(trainer, batches)

    def _comes_to_a_tenth(self, trainer: Trainer, batch_idx: int) -> bool:
        before, self._tenths = self._tenths, self._tenths_of(trainer, batch_idx + 1)
        return self._tenths > before

    @staticmethod
    def _tenths_of(trainer: Trainer, batches: int) -> int:
        done, total = how_far(trainer, batches)
        return int(10 * done / total) if total else 0


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
            done, total = how_far(trainer, batch_idx)
            self._training = self._bars().add_task(self._named(trainer), total=total, completed=done, figures="")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the bar afresh, except in a search."""
        super().on_train_epoch_start(trainer, pl_module)
        if self._progress is not None and self._training is not None:
            if search_of(trainer) is None:
                self._progress.reset(self._training, total=trainer.num_training_batches)
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
            figures = "  ".join(self.figures.shown(trainer, pl_module))
            done = how_far(trainer, batch_idx + 1)[0]
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
            self._evaluation = self._bars().add_task(f"{self.phase}: {what}", total=sum(batches), figures="")
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
