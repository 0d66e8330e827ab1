"""Checkpoints that appear under their name when they are whole, and not before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pme_lightning.split_checkpoints import has_split_tensors, send_split, write_split
from pme_lightning.written_whole import written_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when all of it is on the disk.

    A process that is killed while it writes leaves the checkpoint before. Checkpoints that hold tensors that are split
    over processes (:class:`~pme_lightning.split_checkpoints.SplitTensor`) are written by all of them together.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; arguments as in Lightning's class."""
        target = Path(path)
        split = has_split_tensors(checkpoint)
        if storage_options is not None or "://" in str(path):
            if split:
                raise ValueError(
                    f"a table that is split over processes can be written to a local file only, not {path}"
                )
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if split and dist.get_rank() != 0:
            send_split(checkpoint)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as partial:
            if split:
                write_split(checkpoint, partial)
            else:
                with partial.open("wb") as file:
                    _save(checkpoint, file)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    """Writes a checkpoint; of what goes wrong with the file it says that, not what comes of it in torch."""
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
