"""Rows of a table that is split over processes: those of a batch come from where they are, gradients go back there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.shard import Shard


class RowExchange:
    """Who needs which rows of whom, for the ids of one batch. Making one is a collective call, and so are its methods.

    Each process asks for every distinct token of its batch once. What travels grows with the batch, not the table.

    Args:
        ids: ``(n,)`` token ids of this process's batch; there may be none.
        shard: This process.
        num_tokens: ``V``, of the whole table.

    Attributes:
        distinct: The distinct tokens of the batch, owner by owner, in the order in which answers come.
        tokens: ``(U,)`` their ids.
        asked: ``(R,)`` int64: the rows, among those held here, that all processes have asked this one for.
    """

    def __init__(self, ids: Tensor, shard: Shard, num_tokens: int) -> None:
        most = -(-num_tokens // shard.processes)
        # Numbered so that the tokens of one owner are side by side.
        numbers = ids % shard.processes * most + ids // shard.processes
        self.distinct = DistinctTokens.of(numbers)
        rows = self.distinct.tokens % most
        owners = self.distinct.tokens // most
        self.tokens = rows * shard.processes + owners
        counts = torch.bincount(owners, minlength=shard.processes).to(meeting_device())
        asked_counts = torch.empty_like(counts)
        dist.all_to_all_single(asked_counts, counts)
        # One wait for the device in place of two.
        self._wanted, self._asked = torch.stack([counts, asked_counts]).tolist()
        self.asked = _swapped(rows, self._wanted, self._asked).long()

    def answers(self, values: Tensor, widths: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Sends the rows that were asked for; returns those that this process asked for.

        Args:
            values: ``(R, k)``, one row for each that was asked for; with widths, all rows in one ``(sum,)``.
            widths: values of each row that was asked for ``(R,)`` and of each that is wanted ``(U,)``.

        Returns:
            ``(U, k)`` or ``(sum,)``, in the order of ``tokens``.
        """
        asked, wanted = self._splits(widths)
        return _swapped(values, asked, wanted)

    def returned(self, gradients: Tensor, widths: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Sends gradients back to the owners of the rows; returns those of the rows that were asked for here.

        Args:
            gradients: What :meth:`answers` returned, the gradient of it.
            widths: As there.

        Returns:
            Of the shape that :meth:`answers` was given.
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
    """Returns where tensors must be to travel between processes: NCCL takes those in the memory of GPUs alone.

    Between two fits a table is in main memory, where Lightning takes every module when its fit is done.
    """
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
