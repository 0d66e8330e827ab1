"""Weight decay of many steps at once, over all values of a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pme_lightning.optim.row_blocks import RowBlock, tables_of
from pme_lightning.optim.stored_values import store
from pme_lightning.sixteen_bits import Chance, widened

# Values worked on at a time: on a processor they stay in the cache from one operation to the next, on a GPU an
# operation has something to do.
_CHUNK = 1 << 17
_CHUNK_ON_GPU = 1 << 25


@torch.no_grad()
def decay(
    parameter: Tensor,
    total: Tensor,
    group: dict[str, Any],
    blocks: Sequence[RowBlock] = (),
    chance: Chance | None = None,
) -> None:
    """Shrinks all values by ``decay_interval`` steps of weight decay, in place.

    Args:
        parameter: The values.
        total: ``s`` of each of them.
        group: Holds ``lr``, ``eps``, ``weight_decay`` and ``decay_interval``.
        blocks: How rows lie in the parameter, and what their decay is scaled by.
        chance: What values of 16 bits are rounded by.
    """
    if not blocks:
        _decay(parameter, total, group, None, chance)
    for (block, values), (_, sums) in zip(tables_of(parameter, blocks), tables_of(total, blocks), strict=True):
        _decay(values, sums, group, block, chance)


def _decay(
    parameter: Tensor, total: Tensor, group: dict[str, Any], block: RowBlock | None, chance: Chance | None
) -> None:
    strength, interval = group["lr"] * group["weight_decay"], int(group["decay_interval"])
    shrink, start = None, 0
    for stored, stored_sums in zip(_chunks(parameter), _chunks(total), strict=True):
        values, sums = widened(stored), widened(stored_sums)
        if shrink is None or shrink.shape != sums.shape:
            shrink = torch.empty_like(sums)
        torch.sqrt(sums, out=shrink).add_(group["eps"]).clamp_(min=torch.finfo(sums.dtype).tiny).reciprocal_()
        scale = 1.0 if block is None else block.decays_of(start, start + len(stored)).to(sums)
        start += len(stored)
        shrink.mul_(-strength * scale).add_(1).clamp_(min=0)
        _multiply_by_power(values, shrink, interval)
        store(stored, values, chance)


def _multiply_by_power(values: Tensor, factor: Tensor, exponent: int) -> None:
    """Multiplies values by ``factor ** exponent``, and spoils the factor: squaring is far cheaper than ``pow``."""
    while exponent:
        if exponent & 1:
            values.mul_(factor)
        exponent >>= 1
        if exponent:
            factor.square_()


def _chunks(table: Tensor) -> Iterator[Tensor]:
    if not table.ndim:
        return iter([table.unsqueeze(0)])
    rows = max(1, (_CHUNK_ON_GPU if table.is_cuda else _CHUNK) * len(table) // max(1, table.numel()))
    return iter(table.split(rows))
