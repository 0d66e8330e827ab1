"""The last batches of a fit, on which a pruned model is looked at."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor

from pme_lightning.callbacks.rank_sums import spans_processes, sum_over_processes

# Means over so many rows, of all processes together, are known to a few hundredths.
_ROWS = 1 << 14

# Ids (B, F) and labels (B,).
Batch = tuple[Tensor, Tensor]


class RecentBatches:
    """The last batches of a fit, about 16,000 rows of all processes: each process has its own, equally many."""

    def __init__(self) -> None:
        self._length: int | None = None
        self._batches: deque[Batch] = deque()
        self._everyones: list[list[Batch]] = []

    def add(self, batch: Batch, processes: int) -> None:
        """Keeps a batch, and lets go the one that is the longest ago if there are enough.

        Args:
            batch: ids ``(B, F)`` and labels ``(B,)``; the first one of the fit, with what all processes have of it,
                says how many are enough.
            processes: Of the run.
        """
        if self._length is None:
            # The same in all processes, which may differ by a row: they look at what they keep together.
            self._length = math.ceil(_ROWS / max(1, sum_over_processes(len(batch[0]))))
        rows = math.ceil(_ROWS / processes)
        self._batches.append((batch[0][:rows], batch[1][:rows]))
        while len(self._batches) > self._length:
            self._batches.popleft()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def gather(self) -> None:
        """Puts what every process has into what :meth:`state` returned; called by all of them together."""
        if spans_processes():
            everyones: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyones, [(ids.cpu(), labels.cpu()) for ids, labels in self._batches])
            # In place: Lightning asks for states first, and lets callbacks add to them after.
            self._everyones[:] = everyones

    def state(self) -> dict[str, Any]:
        """Returns the batches of all processes; where there are several, :meth:`gather` puts them in."""
        self._everyones = [list(self._batches)]
        return {"length": self._length, "batches": self._everyones}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes this process's batches out of what :meth:`state` gave."""
        rank = dist.get_rank() if spans_processes() else 0
        self._length = state["length"]
        self._batches = deque(state["batches"][rank])
