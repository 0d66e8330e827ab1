"""Numbers in few bits each: stored as they are, as halves, or as whole multiples of a scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

# Bits of a value: float32, float16, and whole numbers of eight and four bits.
BITS = (32, 16, 8, 4)
# Scales to choose among, as parts of the one that reaches the largest value: of few bits the ends cost the middle.
_PARTS_OF_LARGEST = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15)
# Values as small as this are taken for zeros: their scale could be one.
_NOTHING = 1e-30
# Where values are packed two to a byte: what brings the whole numbers of four bits, -8 ... 7, to 0 ... 15.
_HALF_BYTE = 8

# Gives values (n,), the group (n,) int64 that each belongs to, and how much its error counts (n,), part by part, anew
# for every call.
Parts = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]


def scales_of(parts: Parts, groups: int, bits: int) -> Tensor:
    """Returns for each group the scale ``(G,)`` whose whole multiples are nearest to its values, by squared error.

    Args:
        parts: The values.
        groups: ``G``, the number of groups.
        bits: 8 or 4.
    """
    largest = torch.zeros(groups)
    for values, group, _ in parts():
        largest.scatter_reduce_(0, group, values.abs(), "amax")
    # A group of zeros, or of nothing, may have any.
    reaching = torch.where(largest > _NOTHING, largest, 1.0) / _highest(bits)
    candidates = reaching * torch.tensor(_PARTS_OF_LARGEST).unsqueeze(1)
    errors = torch.zeros(candidates.shape, dtype=torch.float64)
    for values, group, weight in parts():
        for scales, error in zip(candidates, errors, strict=True):
            own = scales[group]
            off = (_whole(values, own, bits) * own - values).double()
            error.index_add_(0, group, off.square() * weight)
    # The first of several that err alike: a value that is alone is met by the scale that reaches it.
    return candidates.gather(0, errors.argmin(0, keepdim=True))[0]


def stored(parts: Parts, scales: Tensor | None, bits: int) -> Tensor:
    """Returns all values one after the other as they are stored, for :func:`read` to read: of 4 bits, two to a byte.

    Args:
        parts: The values.
        scales: ``(G,)``, of each group; None where values have 32 or 16 bits.
        bits: One of :data:`BITS`.
    """
    if scales is None:
        dtype = {32: torch.float32, 16: torch.float16}[bits]
        return torch.cat([torch.empty(0, dtype=dtype), *(values.to(dtype) for values, _, _ in parts())])
    codes = [_whole(values, scales[group], bits).to(torch.int8) for values, group, _ in parts()]
    flat = torch.cat([torch.empty(0, dtype=torch.int8), *codes])
    if bits == 8:
        return flat
    halves = torch.nn.functional.pad(flat + _HALF_BYTE, (0, len(flat) % 2)).to(torch.uint8).view(-1, 2)
    return halves[:, 0] | halves[:, 1] << 4


def read(stored: Tensor, places: Tensor, bits: int) -> Tensor:
    """Returns the values at places ``(n,)`` int64 as float32; of 8 and 4 bits as multiples, without their scales."""
    if bits != 4:
        return stored.index_select(0, places).float()
    pairs = stored.index_select(0, places >> 1)
    return ((pairs >> (places & 1) * 4 & 15).to(torch.int8) - _HALF_BYTE).float()


def _highest(bits: int) -> int:
    return (1 << bits - 1) - 1


def _whole(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    return (values / scales).round().clamp(-_highest(bits) - 1, _highest(bits))
