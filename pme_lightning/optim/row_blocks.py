"""How rows of several widths lie in one flat parameter, and how an optimizer is to scale what it does to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Rows of equal width, one after the other.

    Attributes:
        count: Number of rows.
        steps: ``(width,)``: what steps of each value of a row are multiplied by.
        decays: ``(width,)``: what its weight decay is multiplied by.
    """

    count: int
    steps: Tensor
    decays: Tensor

    @property
    def width(self) -> int:
        """Values of a row."""
        return len(self.steps)

    @property
    def numel(self) -> int:
        """Values of all rows."""
        return self.count * self.width


def check_blocks(parameter: Tensor, blocks: Sequence[RowBlock]) -> None:
    """Raises ValueError where blocks do not fill a parameter."""
    filled = sum(block.numel for block in blocks)
    if parameter.ndim != 1 or filled != len(parameter):
        raise ValueError(f"blocks of {filled} values do not fill a parameter of shape {tuple(parameter.shape)}")


def tables_of(
    values: Tensor, blocks: Sequence[RowBlock], places: Tensor | None = None
) -> Iterator[tuple[RowBlock, Tensor]]:
    """Yields each block and its rows ``(n, width)`` among values, a view; blocks without rows are passed over.

    Args:
        values: ``(n,)``: all values of a parameter, or some whole rows of it.
        blocks: How the parameter is laid out.
        places: ``(n,)`` rising: where the values stand in the parameter; ``None`` if they are all of it.

    Raises:
        ValueError: The values of a block are not whole rows.
    """
    ends = torch.tensor([block.numel for block in blocks], dtype=torch.int64).cumsum(0)
    if places is not None and len(blocks):
        ends = torch.searchsorted(places, ends.to(places.device))
    begin = 0
    for block, end in zip(blocks, ends.tolist(), strict=True):
        if end > begin:
            if (end - begin) % block.width:
                raise ValueError(f"{end - begin} values of rows of {block.width}: a gradient has whole rows")
            yield block, values[begin:end].view(-1, block.width)
        begin = end
