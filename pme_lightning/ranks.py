"""Which of a run's processes this one is. It imports nothing heavy: the command line asks before anything is loaded."""

from __future__ import annotations

import os


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
