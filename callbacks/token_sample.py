"""The tokens that sizes are tried on if there are too many to make sizes for all of them repeatedly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# With this many, it is known to a few thousandths of the sizes where the budget runs out.
_DRAWN = 1 << 16
# Tables with fewer tokens than this many times the sample are used whole.
_WORTH_IT = 4


@dataclass(frozen=True, eq=False)
class TokenSample:
    """Some of the tokens: those of some rows, whose sizes are needed, and a sample that represents all.

    Attributes:
        tokens: ``(n,)`` int64, in ascending order.
        drawn: ``(n,)`` bool: which of them represent all, evenly spaced. If the tokens of a field are numbered by
            frequency, the sample has popular and rare ones in proportion.
        share: The fraction of all tokens that is in this sample.
    """

    tokens: Tensor
    drawn: Tensor
    share: float

    @classmethod
    def of(cls, rows: Iterable[Tensor], num_tokens: int, device: torch.device) -> TokenSample | None:
        """Draws a sample; None if there are so few tokens that all of them can be used.

        Args:
            rows: The ids of rows, all of whose tokens are included.
            num_tokens: How many tokens there are.
            device: Device of the result.
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
