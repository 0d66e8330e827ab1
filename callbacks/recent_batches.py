"""The last batches of a fit, on which a pruned model is measured."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor

from pme_lightning.callbacks.rank_sums import spans_processes, sum_over_processes

# Means over this many rows, of all processes together, are accurate to a few hundredths.
_ROWS = 1 << 14

# Ids (B, F) and labels (B,).
Batch = tuple[Tensor, Tensor]


class RecentBatches:
    """The last batches of a fit, about 16,000 rows over all processes: each keeps its own, the same number in all."""

    def __init__(self) -> None:
        self._length: int | None = None
        self._batches: deque[Batch] = deque()
        self._everyones: list[list[Batch]] = []

    def add(self, batch: Batch, processes: int) -> None:
        """Keeps a batch, and drops the oldest one if there are enough.

        Args:
            batch: ids ``(B, F)`` and labels ``(B,)``; the number of rows of the first one, over all processes,
                determines how many batches are kept.
            processes: Number of processes of the run.
        """
        if self._length is None:
            # The same in all processes, although their batches may differ by a row: they measure together.
            self._length = math.ceil(_ROWS / max(1, sum_over_processes(len(batch[0]))))
        rows = math.ceil(_ROWS / processes)
        self._batches.append((batch[0][:rows], batch[1][:rows]))
        while len(self._batches) > self._length:
            self._batches.popleft()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def gather(self) -> None:
        """Adds the batches of all processes to what :meth:`state` returned; all processes must call it together."""
        if spans_processes():
            everyones: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyones, [(ids.cpu(), labels.cpu()) for ids, labels in self._batches])
            # In place: Lightning asks for states first, and then lets callbacks add to the checkpoint.
            self._everyones[:] = everyones

    def state(self) -> dict[str, Any]:
        """Returns the batches of all processes; with several processes, :meth:`gather` adds them."""
        self._everyones = [list(self._batches)]
        return {"length": self._length, "batches": self._everyones}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the batches of this process from what :meth:`state` returned."""
        rank = dist.get_rank() if spans_processes() else 0
        self._length = state["length"]
        self._batches = deque(state["batches"][rank])
