"""Writes, now and then, all that a fit goes on from exactly where it was."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from pme_lightning.runs.random_states import draw_apart, random_states, restore_random_states

# Processes agree on what the main one's clock says; asking costs a message.
_STEPS_BETWEEN_LOOKS = 20


class ResumePoint(Callback):
    """Keeps a checkpoint from which a fit that was killed goes on as if it had not been.

    It is written before a batch is trained on, when everything that the batch before brought is done: at the start of
    an epoch, and in its midst as often as asked for. It holds what Lightning's checkpoints hold and the state of every
    random number generator besides; the data module says how many batches of the epoch are behind it. It must be the
    first callback of its Trainer.

    Ctrl-C lets the batch at work end, writes a checkpoint, and then ends the fit; a second one ends it at once. In a
    run of several processes it ends at once, and the checkpoint written last is the one to go on from.

    Args:
        path: The checkpoint.
        every_n_steps: How many optimizer steps lie between two within an epoch; ``None``: as time says.
        every_n_minutes: How much time lies between two within an epoch; ``None``: as steps say.
        at_end: Whether the end of the fit is written too.
        resumes: Whether the fit goes on from ``path``.

    Attributes:
        seconds: What the fit has taken, with the time before it was interrupted.
    """

    def __init__(
        self,
        path: Path,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        at_end: bool = True,
        resumes: bool = False,
    ) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.at_end = at_end
        self.resumes = resumes
        self._loaded: dict[str, Any] | None = None
        self._saving = False
        self._saved_step = 0
        self._saved_at = self._started = time.monotonic()
        self._before = 0.0
        self._interrupted = False
        self._handler: Any = None

    @property
    def seconds(self) -> float:
        """What the fit has taken so far, with the time before it was interrupted."""
        return self._before + time.monotonic() - self._started

    @property
    def _folder(self) -> str:
        """Where Lightning's checkpoint callback says that the checkpoints of this fit are."""
        return str(self.path.parent.resolve())

    def logged_steps(self) -> int | None:
        """Returns how many steps a fit that goes on has logged before; ``None`` if it starts."""
        if not self.resumes:
            return None
        checkpoint = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        return checkpoint["resume_point"]["batches_that_stepped"]

    # What is written, and where it goes.

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning does not keep."""
        if self._saving:
            checkpoint["resume_point"] = {
                "random": random_states(),
                "should_stop": trainer.should_stop,
                "batches_that_stepped": trainer.fit_loop.epoch_loop._batches_that_stepped,
                "accumulated": trainer.accumulate_grad_batches,
                "seconds": self.seconds,
                "folder": self._folder,
            }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes it up again, also where the folder has been moved since."""
        self._loaded = checkpoint.get("resume_point")
        then = None if self._loaded is None else self._loaded["folder"]
        for state in checkpoint["callbacks"].values():
            # Those of others keep theirs elsewhere.
            if isinstance(state, dict) and then is not None and state.get("dirpath") == then:
                _move(state, self._folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; a fit that had ended stays ended."""
        self._started = self._saved_at = time.monotonic()
        if self._loaded is not None:
            self._before = self._loaded["seconds"]
            trainer.should_stop = self._loaded["should_stop"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for Ctrl-C, or SIGTERM in several processes; these draw random numbers of their own from here on."""
        draw_apart(trainer)
        self._saved_step = trainer.global_step
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.world_size == 1:
            self._handler = signal.signal(signal.SIGINT, self._on_interrupt)
        else:
            signal.signal(signal.SIGTERM, partial(_on_sigterm, trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Writes a checkpoint where one is due."""
        if self._loaded is not None:
            # From here on everything random is drawn as it would have been, and loggers count on.
            restore_random_states(self._loaded["random"])
            draw_apart(trainer)
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._loaded["batches_that_stepped"]
            # A callback may have set it at the start of the epoch, which does not come again.
            trainer.accumulate_grad_batches = self._loaded.get("accumulated", trainer.accumulate_grad_batches)
            self._loaded = None
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients are half gathered, and no checkpoint holds them
        if self._interrupted or self._is_due(trainer, batch_idx):
            self._save(trainer)
        self._end_if_interrupted()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Ends a fit that was interrupted while it validates."""
        self._end_if_interrupted()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the end."""
        if self.at_end:
            self._save(trainer)
        self._end_if_interrupted()
        self._give_back_interrupts()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Waits for Ctrl-C no longer."""
        self._give_back_interrupts()

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        step = trainer.global_step
        if step == self._saved_step:
            return False
        if batch_idx == 0 or (self.every_n_steps and step % self.every_n_steps == 0):
            return True
        return self.every_n_minutes is not None and self._time_is_up(trainer, self.every_n_minutes * 60)

    def _time_is_up(self, trainer: Trainer, seconds: float) -> bool:
        up = time.monotonic() - self._saved_at >= seconds
        if trainer.world_size == 1:
            return up
        if trainer.global_step % _STEPS_BETWEEN_LOOKS:
            return False
        answer = torch.tensor([int(up)], device=trainer.strategy.root_device)
        dist.broadcast(answer, 0)
        return bool(answer)

    def _save(self, trainer: Trainer) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        last, fetched = progress.is_last_batch, progress.total.ready
        # The batch that was fetched is still to be trained on, even where it is the last. A fit that goes on fetches it
        # anew: counted twice, it would bring validations forward that come every so many batches over epochs.
        progress.is_last_batch = last and progress.current.completed == progress.current.ready
        progress.total.ready = progress.total.completed
        self._saving = True
        try:
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(self.path)
        finally:
            self._saving = False
            progress.is_last_batch, progress.total.ready = last, fetched
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def _on_interrupt(self, number: int, frame: Any) -> None:
        self._interrupted = True
        self._give_back_interrupts()  # the next one is meant

    def _end_if_interrupted(self) -> None:
        if self._interrupted:
            self._give_back_interrupts()
            raise KeyboardInterrupt

    def _give_back_interrupts(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None


def _on_sigterm(trainer: Trainer, *_: Any) -> None:
    """Has the process end after this batch.

    It takes the place of Lightning's handler until the fit is over. That one broadcasts from within whatever the
    process is doing: where the others are not told to end as well, all wait for messages that nobody sends.
    """
    trainer._signal_connector.received_sigterm = True


def _move(state: dict[str, Any], folder: str) -> None:
    """Lets Lightning's checkpoint callback find its best checkpoint where it is now."""

    def moved(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state[key])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
    state["dirpath"] = folder
