"""Values that are stored in 16 bits: read into 32, written back rounded at random, by optimizers that know of it."""

from __future__ import annotations

import torch
from torch import Tensor

from pme_lightning.class_path import import_class
from pme_lightning.errors import BadInput


def widened(values: Tensor) -> Tensor:
    """Returns values of at least 32 bits, the same tensor where it has them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Chance:
    """What values are rounded by in one step of one parameter.

    It is drawn from the seed alone. All that is rounded in the step shares it, place by place: each value comes out
    right in the mean for itself, and a draw costs as much as the rounding.

    Args:
        seed: The same seed, and the same numbers of values, are rounded alike.
        device: Where the values are.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._noise = torch.empty(0, dtype=torch.int32, device=device)

    def noise(self, count: int) -> Tensor:
        """Returns whole numbers ``(count,)`` int32, each from 0 to 65,535 as likely as any other."""
        if len(self._noise) < count:
            # A draw of 64 bits does for four values.
            drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=self._noise.device)
            drawn.random_(-(1 << 63), None, generator=self._generator)
            self._noise = drawn.view(torch.int16).to(torch.int32).add_(1 << 15)
        return self._noise[:count]


def rounded_at_random(values: Tensor, chance: Chance) -> Tensor:
    """Rounds values of 32 bits to bfloat16, up or down, each with the chance that makes the mean the value itself.

    Rounded to the nearest, steps smaller than half a last place would all be lost: at 1 that is .004. At random they
    come about now and then, and add up to what they should (stochastic rounding; Gupta et al., 2015).

    Args:
        values: float32.
        chance: What decides.
    """
    bits = values.contiguous().view(torch.int32)
    # What is cut off carries over into what stays as often as it is large.
    carried = bits + chance.noise(bits.numel()).view(bits.shape)
    return carried.bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)


def check_bits(bits: int, optimizer: str) -> None:
    """Refuses optimizers that would lose most of their steps in values of few bits.

    Args:
        bits: Of a value of the table.
        optimizer: Import path of the table's optimizer.

    Raises:
        BadInput: The class has no true attribute ``takes_sixteen_bits``.
    """
    if bits < 32 and not getattr(import_class(optimizer), "takes_sixteen_bits", False):
        raise BadInput(
            f"model.embedding_bits={bits}: {optimizer} rounds to the nearest, and small steps would be lost; use "
            "pme_lightning.optim.LazyAdagrad for the table (optimizer=adam_adagrad), or 32 bits"
        )
