"""How far a phase has come: a bar on a terminal, and a plain line an epoch there and anywhere else."""

from __future__ import annotations

import os
import sys

from lightning.pytorch import Callback

from pme_lightning.progress.phase_bar import PhaseBar
from pme_lightning.progress.phase_lines import PhaseLines


def phase_progress(phase: str) -> Callback:
    """Returns the display of a phase: a bar on a terminal, lines anywhere else."""
    return PhaseBar(phase) if shows_bars() else PhaseLines(phase)


def shows_bars() -> bool:
    """Whether standard output can show what moves: a terminal, and not one that is dumb."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
