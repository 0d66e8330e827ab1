"""Models from checkpoints, and the sizes that they number tokens by."""

from __future__ import annotations

from pathlib import Path

import torch

from pme_lightning.embedding import Shard
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.runs.files import find_run_folder, sizes_files
from pme_lightning.runs.folder import RunFolder
from pme_lightning.search import SearchResult


def searched_model(folder: RunFolder, shard: Shard | None = None) -> CTRModule:
    """Returns the model as the search left it; of a table that is split over processes this process's rows."""
    return load_module(folder.checkpoints("search") / "last.ckpt", shard)


def load_module(path: str | Path, shard: Shard | None = None) -> CTRModule:
    """Returns the model of a checkpoint, on the processor.

    Args:
        path: The checkpoint.
        shard: Which rows of the table to read, where it is to be split over processes; ``None``: all.
    """
    if shard is None:
        return CTRModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    # Mapped, not read: of the table just the rows of this process are brought to memory.
    checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    module = CTRModule(**checkpoint["hyper_parameters"], shard=shard)
    module.load_state_dict(checkpoint["state_dict"])
    return module


def find_sizes(checkpoint: str, fingerprint: str, sizes: str | None = None) -> SearchResult:
    """Returns the sizes that a checkpoint numbers tokens by.

    Args:
        checkpoint: The checkpoint.
        fingerprint: What the checkpoint holds of its sizes, :meth:`SearchResult.fingerprint`.
        sizes: The file; ``None`` looks for it in the run folder around the checkpoint.

    Raises:
        BadInput: There is no such file, or none of these sizes.
    """
    folder = find_run_folder(checkpoint)
    files = [Path(sizes)] if sizes else sizes_files(folder) if folder else []
    if not files:
        raise BadInput(
            f"ckpt_path: '{checkpoint}' numbers tokens by size, and no sizes.safetensors is in a run folder "
            "around it: name it with sizes=PATH"
        )
    for file in files:
        result = SearchResult.load(file)
        if result.fingerprint() == fingerprint:
            return result
    where = f"'{files[0]}'" if len(files) == 1 else f"any file of '{files[-1].parent}'"
    raise BadInput(f"ckpt_path: '{checkpoint}' was not trained with the sizes in {where}")
