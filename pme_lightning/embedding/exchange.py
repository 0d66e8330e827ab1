"""Exchange of rows of a table that is split over processes: owners send the rows of a batch, and get gradients back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.shard import Shard


class RowExchange:
    """Which process needs which rows from which other, for the ids of one batch.

    The constructor is a collective call, and so are the methods. Each process requests every distinct token of its
    batch once. The traffic grows with the batch, not with the table.

    Args:
        ids: ``(n,)`` token ids of this process's batch; there may be none.
        shard: This process.
        num_tokens: ``V``, of the whole table.

    Attributes:
        distinct: The distinct tokens of the batch, owner by owner, in the order in which answers arrive.
        tokens: ``(U,)`` their ids.
        asked: ``(R,)`` int64: the rows, among those held here, that all processes have requested from this one.
    """

    def __init__(self, ids: Tensor, shard: Shard, num_tokens: int) -> None:
        most = -(-num_tokens // shard.processes)
        # Numbered so that the tokens of one owner are consecutive.
        numbers = ids % shard.processes * most + ids // shard.processes
        self.distinct = DistinctTokens.of(numbers)
        rows = self.distinct.tokens % most
        owners = self.distinct.tokens // most
        self.tokens = rows * shard.processes + owners
        counts = torch.bincount(owners, minlength=shard.processes).to(meeting_device())
        asked_counts = torch.empty_like(counts)
        dist.all_to_all_single(asked_counts, counts)
        # One wait for the device instead of two.
        self._wanted, self._asked = torch.stack([counts, asked_counts]).tolist()
        self.asked = _swapped(rows, self._wanted, self._asked).long()

    def answers(self, values: Tensor, widths: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Sends the rows that were requested; returns those that this process requested.

        Args:
            values: ``(R, k)``, one row for each request; with widths, all rows in one tensor ``(sum,)``.
            widths: number of values of each row that others requested ``(R,)``, and that this process did ``(U,)``.

        Returns:
            ``(U, k)`` or ``(sum,)``, in the order of ``tokens``.
        """
        asked, wanted = self._splits(widths)
        return _swapped(values, asked, wanted)

    def returned(self, gradients: Tensor, widths: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Sends gradients back to the owners of the rows; returns those of the rows that were requested here.

        Args:
            gradients: The gradient of what :meth:`answers` returned.
            widths: As in :meth:`answers`.

        Returns:
            A tensor of the shape that was passed to :meth:`answers`.
        """
        asked, wanted = self._splits(widths)
        return _swapped(gradients, wanted, asked)

    def _splits(self, widths: tuple[Tensor, Tensor] | None) -> tuple[list[int], list[int]]:
        if widths is None:
            return self._asked, self._wanted
        return _sums(widths[0], self._asked), _sums(widths[1], self._wanted)


def _sums(widths: Tensor, counts: Sequence[int]) -> list[int]:
    return torch.stack([part.sum() for part in widths.split(list(counts))]).tolist()


def _swapped(values: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    given = values.to(meeting_device()).contiguous()
    found = given.new_empty(sum(received), *given.shape[1:])
    dist.all_to_all_single(found, given, list(received), list(sent))
    return found.to(values.device)


def meeting_device() -> torch.device:
    """Returns the device for tensors that are sent between processes: NCCL takes only those in GPU memory.

    Between two fits a table is in main memory, to which Lightning moves every module at the end of a fit.
    """
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
