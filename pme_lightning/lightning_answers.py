"""Lightning's answers in the manner of ours: what it says, and how it ends."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pme_lightning.errors import BadInput

# What they say, and from which level on: advice is not passed on, what a user asks for is.
LOGGERS = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,
    "lightning.pytorch.profilers": logging.INFO,
    "lightning.pytorch.callbacks.model_summary": logging.INFO,
}


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Turns Lightning's answers into ours: leaving the process at Ctrl-C, and complaints about its settings."""
    try:
        yield
    except SystemExit as error:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise BadInput(f"trainer: {error}") from error
    except ValueError as error:
        # How many batches there are it learns when the fit has begun.
        if "val_check_interval" in str(error):
            raise BadInput(f"trainer: {' '.join(str(error).split())}") from error
        if "Expected more than 1 value per channel when training" in str(error):
            raise BadInput("data.batch_size: batch norm needs two rows or more in a batch to train on") from error
        raise


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Lets Ctrl-C wait: what is raised while objects are finalized nobody gets to see."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if held:
            signal.raise_signal(signal.SIGINT)


def quiet_lightning() -> None:
    """Keeps the advice of Lightning and torch out of the way of the output; warnings about real trouble stay."""
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    for message in (
        ".*does not have many workers.*",
        ".*`IterableDataset` has `__len__` defined.*",
        ".*exists and is not empty.*",
        ".*Trying to infer the `batch_size`.*",
        ".*GPU available but not used.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*treespec, LeafSpec.*is deprecated.*",
        ".*your dataloader is not resumable.*",  # the data module knows how far it was
        ".*Sparse invariant checks are implicitly disabled.*",  # gradients are made of rows that are known to be right
        ".*AccumulateGrad node's stream does not match.*",  # Lightning wraps the model for DDP in a stream of its own
    ):
        warnings.filterwarnings("ignore", message)
