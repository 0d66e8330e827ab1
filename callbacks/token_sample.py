"""The tokens that sizes are tried on, where there are too many to make sizes of all of them again and again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# Of so many, where the budget runs out is known to some thousandths of the sizes.
_DRAWN = 1 << 16
# Tables of fewer tokens than so many times that are taken whole.
_WORTH_IT = 4


@dataclass(frozen=True, eq=False)
class TokenSample:
    """Some of the tokens: those of some rows, whose sizes are asked for, and some that stand for all.

    Attributes:
        tokens: ``(n,)`` int64, rising.
        drawn: ``(n,)`` bool: which of them stand for all, at even distances. Where a field's tokens are numbered by
            their frequency, popular and rare ones are among them in proportion.
        share: The share of all tokens that those are.
    """

    tokens: Tensor
    drawn: Tensor
    share: float

    @classmethod
    def of(cls, rows: Iterable[Tensor], num_tokens: int, device: torch.device) -> TokenSample | None:
        """Draws them; None where tokens are so few that all of them can be taken.

        Args:
            rows: The ids of rows, whose tokens all are among them.
            num_tokens: How many tokens there are.
            device: Where to.
        """
        stride = num_tokens // _DRAWN
        if stride < _WORTH_IT:
            return None
        drawn = torch.zeros(num_tokens, dtype=torch.bool, device=device)
        drawn[stride // 2 :: stride] = True
        taken = drawn.clone()
        for ids in rows:
            taken[ids.to(device).reshape(-1).long()] = True
        tokens = taken.nonzero().squeeze(1)
        return cls(tokens, drawn[tokens], int(drawn.sum()) / num_tokens)
