"""Says how long a process took to its first training step."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class FirstStep(Callback):
    """Prints the seconds since the process was started, at the end of the first training batch (Linux)."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints once."""
        if trainer.global_step == 1:
            print(f"first step after {_age():.2f} s")


def _age() -> float:
    # Field 22, counted behind the name in brackets, is the start in clock ticks since the machine's.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
