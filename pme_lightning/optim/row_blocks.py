"""How rows of several widths lie in one flat parameter, and how an optimizer is to scale what it does to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Rows of equal width, one after the other.

    Attributes:
        count: Number of rows.
        steps: ``(width,)``: what steps of each value of a row are multiplied by.
        decays: ``(width,)``: what its weight decay is multiplied by; or ``(G, width)``, one row for each of the groups.
        groups: Where decays differ, how many rows each group has: the first so many, the next, and so on.

    Raises:
        ValueError: The groups do not have as many rows as there are.
    """

    count: int
    steps: Tensor
    decays: Tensor
    groups: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.groups is not None and (sum(self.groups) != self.count or len(self.groups) != len(self.decays)):
            raise ValueError(
                f"groups of {sum(self.groups)} rows with decays of shape {tuple(self.decays.shape)} do not make up a "
                f"block of {self.count} rows"
            )

    def to_the_power(self, power: float) -> RowBlock:
        """Returns the same rows with what they are scaled by raised to a power: 0 would not scale them at all."""
        return replace(self, steps=self.steps**power, decays=self.decays**power)

    @property
    def width(self) -> int:
        """Values of a row."""
        return len(self.steps)

    @property
    def numel(self) -> int:
        """Values of all rows."""
        return self.count * self.width

    def decays_of(self, start: int, stop: int) -> Tensor:
        """Returns what the weight decay of some rows is multiplied by, ``(width,)`` or ``(stop - start, width)``."""
        if self.groups is None:
            return self.decays
        ends = list(accumulate(self.groups))
        counts = [max(0, min(stop, end) - max(start, end - own)) for end, own in zip(ends, self.groups, strict=True)]
        repeats = torch.tensor(counts, device=self.decays.device)
        return self.decays.repeat_interleave(repeats, dim=0, output_size=stop - start)


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


@dataclass(frozen=True, eq=False)
class StepsByPlace:
    """What steps are multiplied by, wherever values stand in a parameter.

    It does what a loop over :func:`tables_of` does, with more arithmetic and without a question to the device of how
    many rows of each block there are.

    Attributes:
        ends: ``(C,)`` int64: where each block of rows ends among all values.
        starts: ``(C,)`` int64: where it starts.
        widths: ``(C,)`` int64: values of its rows.
        steps: ``(C, width of the widest)``: of each value of its rows.
    """

    ends: Tensor
    starts: Tensor
    widths: Tensor
    steps: Tensor

    @classmethod
    def of(cls, blocks: Sequence[RowBlock], device: torch.device) -> StepsByPlace:
        """Lays the facts of blocks out on a device."""
        sizes, widths = (
            torch.tensor([each(block) for block in blocks], dtype=torch.int64)
            for each in (lambda block: block.numel, lambda block: block.width)
        )
        steps = torch.ones(len(blocks), int(widths.max()))
        for row, block in zip(steps, blocks, strict=True):
            row[: block.width] = block.steps
        ends = sizes.cumsum(0)
        return cls(*(each.to(device) for each in (ends, ends - sizes, widths, steps)))

    def at(self, places: Tensor) -> Tensor:
        """Returns the factors ``(n,)`` of values at these places ``(n,)`` of the parameter."""
        blocks = torch.searchsorted(self.ends, places, right=True)
        columns = (places - self.starts.index_select(0, blocks)) % self.widths.index_select(0, blocks)
        return self.steps.view(-1).index_select(0, blocks * self.steps.shape[1] + columns)
