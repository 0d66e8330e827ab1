"""Values that are stored in 16 bits: read into 32, and written back rounded at random."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(values: Tensor) -> Tensor:
    """Returns values of at least 32 bits, the same tensor where it has them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def rounded_at_random(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rounds values of 32 bits to bfloat16, up or down, each with the chance that makes the mean the value itself.

    Rounded to the nearest, steps smaller than half a last place would all be lost: at 1 that is .004. At random they
    come about now and then, and add up to what they should (stochastic rounding; Gupta et al., 2015).

    Args:
        values: float32.
        generator: Where the chance comes from, on the same device; ``None``: torch's own.
    """
    bits = values.contiguous().view(torch.int32)
    count = bits.numel()
    # A draw of 64 bits does for four values.
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=bits.device).random_(
        -(1 << 63), None, generator=generator
    )
    # Widened first: torch adds numbers of two widths thirty times more slowly.
    noise = drawn.view(torch.int16)[:count].view(bits.shape).to(torch.int32).add_(1 << 15)
    # What is cut off carries over into what stays as often as it is large.
    return noise.add_(bits).bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)
