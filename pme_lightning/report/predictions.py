"""Predictions as a file."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
from torch import Tensor

from pme_lightning.report.terminal import say, shown
from pme_lightning.written_whole import written_whole


def write_predictions(probabilities: Tensor, path: Path) -> None:
    """Writes one probability a row, in the rows' order, as Parquet."""
    # By way of memory: the engine's own errors do not tell a full disk from anything else.
    content = io.BytesIO()
    pl.DataFrame({"probability": probabilities.cpu().numpy()}).write_parquet(content)
    with written_whole(path) as partial:
        partial.write_bytes(content.getbuffer())
    say(f"{len(probabilities):,} probabilities: {shown(path)}")
