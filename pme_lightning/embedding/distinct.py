"""The distinct tokens of a batch, and sums over the positions of each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class DistinctTokens:
    """The result of sorting the ids of a batch: ``n`` ids, of which ``U`` are distinct.

    A token that occurs in many rows is read once, and its gradient is written once: sorting 160,000 ids costs less
    than adding up that many rows one by one.

    Attributes:
        tokens: ``(U,)`` the distinct ids, ascending.
        order: ``(n,)`` int64: the positions of the ids, token by token.
        turns: ``(n,)`` boolean: where in ``order`` a new token begins, except for the first one.
        starts: ``(U,)`` int64: where in ``order`` the positions of each token start.
    """

    tokens: Tensor
    order: Tensor
    turns: Tensor
    starts: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> DistinctTokens:
        """Finds the distinct tokens of integer ids ``(n,)``."""
        ordered, order = torch.sort(ids)
        turns = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=turns[1:])
        starts = turns.nonzero().squeeze(1)
        turns[:1] = False
        return cls(ordered.index_select(0, starts), order, turns, starts)

    def __len__(self) -> int:
        """``U``, the number of distinct tokens."""
        return len(self.tokens)

    @property
    def counts(self) -> Tensor:
        """How often each distinct token occurs among the ids, int64 ``(U,)``."""
        return torch.diff(self.starts, append=self.starts.new_full((1,), len(self.order)))

    @cached_property
    def places(self) -> Tensor:
        """The position ``(n,)`` int32 of each id among the distinct tokens: ``tokens[places] == ids``."""
        numbers = self.turns.cumsum(0, dtype=torch.int32)
        return torch.empty_like(numbers).scatter_(0, self.order, numbers)

    def sum(self, values: Tensor) -> Tensor:
        """Adds up the values of each token.

        On a CPU, and with deterministic algorithms of torch, values are added in the order of their positions, the same
        in every run. Otherwise, on a GPU, the order depends on its threads.

        Args:
            values: ``(n, k)``, one row for each id. Values of fewer than 32 bits are added up in 32 bits.

        Returns:
            ``(U, k)``.
        """
        wide = torch.promote_types(values.dtype, torch.float32)
        if not len(self):
            return values.new_zeros(0, values.shape[1], dtype=wide)
        if values.is_cuda and not torch.are_deterministic_algorithms_enabled():
            # Bags would leave a token that occurs in every row to one thread block: twenty times slower.
            return values.new_zeros(len(self), values.shape[1], dtype=wide).index_add_(0, self.places, values.to(wide))
        # One bag per token: the sum runs in parallel over tokens.
        return F.embedding_bag(self.order, values.to(wide), self.starts, mode="sum")
