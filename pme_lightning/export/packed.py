"""Numbers in few bits each: as they are, as halves, as whole multiples of a scale, or as sixteen parts of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

# Bits of a value: float32, float16, whole numbers from -128 to 127, and one of sixteen levels.
BITS = (32, 16, 8, 4)
# Of four bits even steps would lose what most values differ by: these levels, the quantiles of a normal distribution
# with a true zero among them, are nearer to where values are. Dettmers et al., QLoRA, 2023, arXiv:2305.14314 (NF4).
_BELOW = (-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105)
_ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.562617, 0.7229568, 1.0)
LEVELS = torch.tensor([*_BELOW, 0.0, *_ABOVE])
_BETWEEN = (LEVELS[1:] + LEVELS[:-1]) / 2
# Scales to choose among, as parts of the one that reaches the largest value: the ends may cost the middle.
_PARTS_OF_LARGEST = torch.tensor(
    [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15], dtype=torch.float32
)
# Bins of values on either side of zero, by which scales are compared: many to each step of eight bits.
_BINS = 2048
# Values as small as this are taken for zeros: their scale could be one.
_NOTHING = 1e-30

# Gives values (m, w), the group (m, w) int64 that each belongs to, and how much errors of a row count (m, 1), part by
# part, anew for every call.
Parts = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]


def scales_of(parts: Parts, groups: int, bits: int) -> Tensor:
    """Returns for each group the scale ``(G,)`` with which its values are off by the least, in weighted squares.

    Args:
        parts: The values.
        groups: ``G``, the number of groups.
        bits: 8 or 4.
    """
    largest = torch.zeros(groups, dtype=torch.float32)
    for values, group, _ in parts():
        largest.scatter_reduce_(0, group.reshape(-1), values.abs().reshape(-1), "amax")
    # A group of zeros, or of nothing, may have any.
    largest = torch.where(largest > _NOTHING, largest, 1.0)
    held = torch.zeros(groups, 2 * _BINS + 1, dtype=torch.float64)
    for values, group, weight in parts():
        bins = group * held.shape[1] + (values / largest[group] * _BINS).round().long() + _BINS
        held.view(-1).index_add_(0, bins.reshape(-1), weight.double().expand_as(values).reshape(-1))
    values, reach = torch.arange(-_BINS, _BINS + 1, dtype=torch.float32) / _BINS, 127 if bits == 8 else 1
    errors = [
        held @ (_meant(_codes(values / scale, bits), bits) * scale - values).double().square()
        for scale in _PARTS_OF_LARGEST / reach
    ]
    return largest * _PARTS_OF_LARGEST[torch.stack(errors).argmin(0)] / reach


def stored(parts: Parts, scales: Tensor | None, bits: int) -> Tensor:
    """Returns all values, row by row, as they are stored for :func:`read` to read: of 4 bits, two to a byte.

    Args:
        parts: The values.
        scales: ``(G,)``, of each group; None where values have 32 or 16 bits.
        bits: One of :data:`BITS`.
    """
    if scales is None:
        dtype = {32: torch.float32, 16: torch.float16}[bits]
        return torch.cat([torch.empty(0, dtype=dtype), *(values.reshape(-1).to(dtype) for values, _, _ in parts())])
    codes = [_codes(values / scales[group], bits).reshape(-1) for values, group, _ in parts()]
    flat = torch.cat([_codes(torch.empty(0), bits), *codes])
    if bits == 8:
        return flat
    pairs = torch.nn.functional.pad(flat, (0, len(flat) % 2)).view(-1, 2)
    return pairs[:, 0] | pairs[:, 1] << 4


def errors(parts: Parts, scales: Tensor, bits: int) -> Iterator[Tensor]:
    """Yields for the rows ``(m,)`` of each part what rounding them costs, in weighted squares; float64.

    Args:
        parts: The values.
        scales: ``(G,)``, of each group.
        bits: 8 or 4.
    """
    for values, group, weight in parts():
        own = scales[group]
        off = (_meant(_codes(values / own, bits), bits) * own - values).double()
        yield (off.square() * weight).sum(1)


def read(stored: Tensor, places: Tensor, bits: int) -> Tensor:
    """Returns the values at places ``(n,)`` int32 or int64 as float32; of 8 and 4 bits, as parts of their scales."""
    if bits != 4:
        return stored.index_select(0, places).float()
    pairs = stored.index_select(0, places >> 1)
    return _meant(pairs >> ((places & 1) << 2).to(torch.uint8) & 15, bits)


def _codes(parts_of_scales: Tensor, bits: int) -> Tensor:
    """Returns what stands for the nearest number that there is: int8, or uint8 of the number of a level."""
    if bits == 8:
        return parts_of_scales.round().clamp(-128, 127).to(torch.int8)
    return torch.bucketize(parts_of_scales.contiguous(), _BETWEEN).to(torch.uint8)


def _meant(codes: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return codes.float()
    return LEVELS.to(codes.device).index_select(0, codes.reshape(-1).int()).view(codes.shape)
