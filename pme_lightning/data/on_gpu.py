"""Encoded rows in the memory of a GPU."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from pme_lightning.data.batches import ClickDataset
from pme_lightning.errors import BadInput
from pme_lightning.processes.synchronization import place_among_processes

# Rows brought over at a time.
_CHUNK_ROWS = 1 << 20
# Of the memory that is free when the rows come: the rest is for what trains on them.
_SHARE = 4
_GIB = 1 << 30


class RowsOnGPU(Dataset):
    """A data set's rows in the memory of a device: there a batch is one gather, and no batch has to travel.

    Args:
        dataset: with the rows, and the numbering that ids are to have.
        device: where to.
    """

    def __init__(self, dataset: ClickDataset, device: torch.device) -> None:
        self.ids = torch.empty(dataset.ids.shape, dtype=torch.int32, device=device)
        self.labels: Tensor | None = None
        if dataset.labels is not None:
            self.labels = torch.empty(len(dataset), dtype=torch.float32, device=device)
        for begin in range(0, len(dataset), _CHUNK_ROWS):
            part = slice(begin, begin + _CHUNK_ROWS)
            for whole, own in zip((self.ids, self.labels), dataset[part], strict=False):
                assert whole is not None
                whole[part] = own

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ids)

    def __getitem__(self, index: Tensor | slice | int) -> tuple[Tensor, ...]:
        """Returns a batch, as :class:`~pme_lightning.data.batches.ClickDataset` does, on the device.

        Args:
            index: an int tensor ``(B,)`` of row numbers on the device, a slice of rows, or one row number for a batch
                of one.
        """
        if isinstance(index, int):
            index = slice(index, index + 1)
        whole = (self.ids,) if self.labels is None else (self.ids, self.labels)
        if isinstance(index, slice):
            # A view would let a caller's in-place edit leak into every later epoch.
            return tuple(each[index].clone() for each in whole)
        return tuple(each.index_select(0, index) for each in whole)


def belongs_on_gpu(name: str, dataset: ClickDataset, device: torch.device, wanted: bool | None) -> bool:
    """Decides whether rows are to be held in the memory of the device that trains on them.

    Args:
        name: of the rows, for the error.
        dataset: with the rows.
        device: that trains.
        wanted: what the user says; None if that is left open.

    Raises:
        BadInput: they are wanted there, and there is no room for them.
    """
    if device.type != "cuda" or wanted is False:
        return False
    # The order of an epoch takes 8 bytes a row, and as much again while it is drawn.
    needed = len(dataset) * (4 * dataset.ids.shape[1] + 4 + 16)
    free = torch.cuda.mem_get_info(device)[0]
    if wanted and needed > free:
        raise BadInput(
            f"data.on_gpu=true: {name} takes {needed / _GIB:.1f} GiB and {device} has {free / _GIB:.1f} GiB free: set "
            "data.on_gpu=false, and each batch travels by itself"
        )
    return bool(wanted) or needed <= free // _SHARE


def all_or_none(held: bool, device: torch.device) -> bool:
    """Whether all processes are to hold their rows on their GPUs; on other devices each process is asked alone.

    Rows on a GPU come in an order that the GPU draws, and the processes share one order: all of them hold rows there,
    or none. Processes that train on GPUs call this together.

    Args:
        held: Whether this process is to hold its rows on its device.
        device: That trains.
    """
    if device.type != "cuda" or place_among_processes()[1] == 1:
        return held
    answer = torch.tensor(int(held), device=device)
    dist.all_reduce(answer, op=dist.ReduceOp.MIN)
    return bool(answer)
