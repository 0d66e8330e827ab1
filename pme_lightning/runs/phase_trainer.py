"""Builds the Trainer of a phase: callbacks of ours and of the user, a logger, a progress display, whole checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from pme_lightning.averages import without_averages
from pme_lightning.configuration.objects import build_trainer, listed
from pme_lightning.progress.display import phase_progress
from pme_lightning.progress.live_figures import live_figures
from pme_lightning.whole_checkpoints import WholeCheckpoints


def phase_trainer(
    phase: str,
    options: dict[str, Any],
    callbacks: Sequence[Callback],
    first: int,
    logger: Logger | None,
    folder: Path,
) -> Trainer:
    """Returns a Trainer for one phase.

    Args:
        phase: Name of the phase.
        options: Those of the Trainer, as the user gave them.
        callbacks: Those of the phase.
        first: How many of them go before the user's. A resume point looks at a batch before anything is done with it,
            and a transfer rebuilds the model before anybody makes a copy of it.
        logger: The logger; ``None`` for none.
        folder: The run folder.
    """
    given = listed(options.get("callbacks"))
    if phase == "search":
        # It ends when it is done, and has no validation that it could be stopped by.
        given = [each for each in without_averages(given) if not isinstance(each, EarlyStopping)]
    together = [*callbacks[:first], *given, *callbacks[first:]]
    if logger is not None:
        together += live_figures(callbacks)
    # Lightning would add a checkpoint callback, and a bar, of its own.
    keeps_checkpoints = any(isinstance(each, ModelCheckpoint) for each in together)
    has_bar = any(isinstance(each, ProgressBar) for each in together)
    if options.get("enable_progress_bar") is not False and not has_bar:
        together.append(phase_progress(phase))
    own = {
        "callbacks": together,
        "enable_checkpointing": keeps_checkpoints,
        "plugins": [*listed(options.get("plugins")), WholeCheckpoints()],
        "logger": logger or False,
        "default_root_dir": str(folder),
        "enable_model_summary": bool(options.get("enable_model_summary")),
        "num_sanity_val_steps": options.get("num_sanity_val_steps") or 0,
        "enable_progress_bar": has_bar,
    }
    return build_trainer(options | own)
