"""What a search has to know of all tokens, whichever of them this process holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pme_lightning.embedding.exchange import meeting_device
from pme_lightning.embedding.shard import Shard


class Tokens:
    """All tokens are here: what is known of these is known of all."""

    def counts(self, groups: Sequence[int]) -> list[int]:
        """Returns how many of the tokens of each group are here."""
        return list(groups)

    def cut(self, whole: Tensor) -> Tensor:
        """Returns the rows of the tokens that are here, of a tensor with one row a token."""
        return whole

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum of what every process has, in every process."""
        return tensor

    def total(self, number: int) -> int:
        """Returns the sum of every process's number."""
        return number

    def union(self, values: Tensor) -> Tensor:
        """Returns the distinct values of all tokens, rising."""
        return values.unique()

    def extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the least and the largest value; NaN where any is."""
        low, high = torch.aminmax(values)
        return low, high

    def same(self, tensor: Tensor) -> Tensor:
        """Returns the main process's tensor."""
        return tensor

    def lowest(self, tokens: Tensor, wanted: int) -> Tensor:
        """Returns those of the tokens here, rising, that are among the ``wanted`` lowest of all processes' tokens."""
        return tokens[:wanted]

    def whole(self, held: Tensor) -> Tensor:
        """Returns one row for each token, of what every process has of its own."""
        return held


class SplitTokens(Tokens):
    """Tokens that are split over processes; every method but ``counts`` and ``cut`` is called by all of them together.

    Args:
        shard: This process.
        num_tokens: ``V``, of all processes.
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
        lengths = torch.zeros(self.shard.processes, dtype=torch.int64)
        lengths[self.shard.rank] = len(own)
        counts = self.sum(lengths).tolist()
        padded = torch.zeros(max(counts), *own.shape[1:], dtype=own.dtype, device=meeting_device())
        padded[: len(own)] = own
        pieces = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(pieces, padded)
        return [piece[:count].to(own.device) for piece, count in zip(pieces, counts, strict=True)]


ALONE = Tokens()
