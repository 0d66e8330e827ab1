"""What a search has to know about all tokens, even if this process holds only some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pme_lightning.embedding.exchange import meeting_device
from pme_lightning.embedding.shard import Shard
from pme_lightning.processes.pieces import lengths_of, pieces_of


class Tokens:
    """The case that this process holds all tokens."""

    def counts(self, groups: Sequence[int]) -> list[int]:
        """Returns how many of the tokens of each group are held here."""
        return list(groups)

    def cut(self, whole: Tensor) -> Tensor:
        """Returns the rows of the tokens held here, from a tensor with one row per token."""
        return whole

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over all processes, in every process."""
        return tensor

    def total(self, number: int) -> int:
        """Returns the sum of a number over all processes."""
        return number

    def union(self, values: Tensor) -> Tensor:
        """Returns the distinct values of all tokens, in ascending order."""
        return values.unique()

    def extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the smallest and the largest value; NaN if any value is."""
        low, high = torch.aminmax(values)
        return low, high

    def same(self, tensor: Tensor) -> Tensor:
        """Returns the tensor of the main process."""
        return tensor

    def lowest(self, tokens: Tensor, wanted: int) -> Tensor:
        """Returns those of the tokens held here (ascending) that are among the ``wanted`` lowest of all processes."""
        return tokens[:wanted]

    def whole(self, held: Tensor) -> Tensor:
        """Returns one row for each token, from the rows that each process holds."""
        return held


class SplitTokens(Tokens):
    """Tokens that are split over processes. All methods except ``counts`` and ``cut`` are collective calls.

    Args:
        shard: This process.
        num_tokens: ``V``, over all processes.
    """

    def __init__(self, shard: Shard, num_tokens: int) -> None:
        self.shard = shard
        self.num_tokens = num_tokens

    def counts(self, groups: Sequence[int]) -> list[int]:
        return self.shard.counts(groups)

    def cut(self, whole: Tensor) -> Tensor:
        return self.shard.cut(whole)

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().to(meeting_device(), copy=True).contiguous()
        dist.all_reduce(total)
        return total.to(tensor.device)

    def total(self, number: int) -> int:
        return int(self.sum(torch.tensor(number)))

    def union(self, values: Tensor) -> Tensor:
        return torch.cat(self._gathered(values.unique())).unique()

    def extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        largest = torch.finfo(values.dtype).max
        bounds = torch.aminmax(values) if len(values) and values.numel() else values.new_tensor([largest, -largest])
        pairs = torch.stack(self._gathered(torch.stack([*bounds])))
        return pairs[:, 0].amin(), pairs[:, 1].amax()

    def same(self, tensor: Tensor) -> Tensor:
        mains = tensor.detach().to(meeting_device()).contiguous()
        dist.broadcast(mains, 0)
        return mains.to(tensor.device)

    def lowest(self, tokens: Tensor, wanted: int) -> Tensor:
        ids = tokens * self.shard.processes + self.shard.rank
        # The lowest ids are those below `low`: as many as wanted, no more.
        low, high = 0, self.num_tokens + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.total(int((ids < middle).sum())) <= wanted:
                low = middle
            else:
                high = middle
        return tokens[ids < low]

    def whole(self, held: Tensor) -> Tensor:
        pieces = self._gathered(held)
        whole = held.new_empty(self.num_tokens, *held.shape[1:])
        for rank, piece in enumerate(pieces):
            whole[rank :: self.shard.processes] = piece
        return whole

    def _gathered(self, own: Tensor) -> list[Tensor]:
        """Returns every process's tensor; they may differ in length."""
        sent = own.to(meeting_device())
        return [piece.to(own.device) for piece in pieces_of(sent, lengths_of(sent))]


ALONE = Tokens()
