"""Which of a run's processes this one is. It imports nothing heavy: the command line asks before anything is loaded."""

from __future__ import annotations

import os
import time

# Seconds after which a process says what it found itself, and after which one that was told of it ends. As a rule the
# main process finds the same, and by then has said it, and the others have been ended.
_SPEAKS_AFTER, _ENDS_AFTER = 10.0, 15.0


def global_rank() -> int:
    """Returns the number of this process among all of a run, as torchrun, SLURM or Lightning told it; 0 if alone."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def local_rank() -> int:
    """Returns the number of this process among those of its machine; 0 if alone."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks for all."""
    return global_rank() == 0


def is_watched() -> bool:
    """Whether torchrun, or an agent like it, started this process: it ends all of them when the first one ends."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def let_others_speak(told: bool = False) -> None:
    """Waits before this process of a run ends for an error, so that whoever is to say what is wrong is not cut short.

    Args:
        told: Whether this process was only told that another one failed; otherwise it failed itself.
    """
    if is_watched() and (told or not is_main()):
        time.sleep(_ENDS_AFTER if told else _SPEAKS_AFTER)
