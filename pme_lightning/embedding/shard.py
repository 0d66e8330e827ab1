"""Which rows of a table each process holds, where tables are split over processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Values drawn at a time. torch fills 16 at once: drawn in chunks of a multiple of that, the values stay the same.
_DRAWN = 1 << 20
_DRAWN_TOGETHER = 16


@dataclass(frozen=True)
class Shard:
    """The rows of one process: token ``t`` belongs to process ``t mod N`` and is the ``t // N``-th of its tokens.

    This round-robin assignment spreads frequent tokens, which are adjacent in many vocabularies, over all processes. It
    also spreads the sizes of a multi-size table, whose tokens are numbered by falling size: all processes hold the
    same number of values, except for one row.

    Args:
        rank: Rank of this process.
        processes: ``N``, the number of processes.
    """

    rank: int
    processes: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.processes:
            raise ValueError(f"rank {self.rank} is not one of {self.processes} processes")

    def first(self, start: int) -> int:
        """Returns how many tokens from ``start`` on come before the first one of this process."""
        return (self.rank - start) % self.processes

    def count(self, tokens: int, start: int = 0) -> int:
        """Returns how many of the ``tokens`` tokens from ``start`` on belong to this process."""
        return max(0, -((self.first(start) - tokens) // self.processes))

    def counts(self, groups: Sequence[int]) -> list[int]:
        """Returns how many tokens of each group belong to this process; groups are consecutive and start at 0."""
        counts, start = [], 0
        for tokens in groups:
            counts.append(self.count(tokens, start))
            start += tokens
        return counts

    def cut(self, whole: Tensor) -> Tensor:
        """Returns a copy of this process's rows of a tensor with one row per token."""
        return whole[self.rank :: self.processes].clone()


@dataclass(frozen=True)
class RowLayout:
    """The layout of the whole of a tensor that is split over processes: consecutive tables of rows.

    Attributes:
        shape: Shape of the whole tensor.
        tables: Number of rows, and of values per row, of each table.
    """

    shape: tuple[int, ...]
    tables: tuple[tuple[int, int], ...]

    @classmethod
    def of_rows(cls, *shape: int) -> RowLayout:
        """Returns the layout of a tensor with one row per token."""
        return cls(shape, ((shape[0], math.prod(shape[1:])),))

    def held_shape(self, shard: Shard) -> tuple[int, ...]:
        """Returns the shape of what a process holds."""
        values = sum(part.rows * part.width for part in self.parts(shard))
        return (values // max(1, math.prod(self.shape[1:])), *self.shape[1:])

    def parts(self, shard: Shard) -> Iterator[Part]:
        """Yields the position of each table in the whole tensor, and what a process holds of it."""
        token = offset = held = 0
        for count, width in self.tables:
            rows = shard.count(count, token)
            yield Part(offset, held, count, width, shard.first(token), rows, shard.processes)
            token, offset, held = token + count, offset + count * width, held + rows * width

    def cut(self, whole: Tensor, shard: Shard) -> Tensor:
        """Returns a copy of what a process holds of a whole tensor; never reads more than that at a time."""
        held = whole.new_empty(self.held_shape(shard))
        for part in self.parts(shard):
            part.of_held(held).copy_(part.of_whole(whole))
        return held

    def draw_normal(self, held: Tensor, shard: Shard | None, std: float) -> None:
        """Fills what a process holds with its part of the numbers that one process would draw for the whole tensor.

        Every process draws all numbers, a chunk at a time, and keeps its own. Numbers stored in 16 bits are drawn in 32
        bits and rounded: torch would draw from only a few (bfloat16 has 129 numbers from one half to one).

        Args:
            held: What the process holds, in main memory.
            shard: The process; ``None``: it holds everything.
            std: Standard deviation.
        """
        if shard is None and held.dtype == torch.float32:
            held.normal_(std=std)
            return
        shard = shard or Shard(0, 1)
        size, start = math.prod(self.shape), 0
        parts = [part for part in self.parts(shard) if part.width]
        while start < size:
            end = start + _DRAWN
            if size - end < _DRAWN_TOGETHER:
                end = size
            drawn = torch.empty(end - start, dtype=torch.float32).normal_(std=std)
            while parts and parts[0].offset < end:
                part = parts[0]
                begin, stop = max(start, part.offset), min(end, part.offset + part.count * part.width)
                part.keep(held, drawn[begin - start : stop - start], begin - part.offset)
                if part.offset + part.count * part.width > end:
                    break
                parts.pop(0)
            start = end


@dataclass(frozen=True)
class Part:
    """One table of a layout, and what a process holds of it.

    Attributes:
        offset: Where the table begins in the whole tensor, in values.
        held: Where it begins in what the process holds, in values.
        count: Number of rows of the whole table.
        width: Number of values per row.
        first: The first row that the process holds.
        rows: How many rows the process holds: every ``step``-th from the first one.
        step: The number of processes.
    """

    offset: int
    held: int
    count: int
    width: int
    first: int
    rows: int
    step: int

    def of_whole(self, whole: Tensor) -> Tensor:
        """Returns a view of the process's rows ``(rows, width)`` of a whole tensor."""
        table = whole.reshape(-1)[self.offset : self.offset + self.count * self.width]
        return table.view(self.count, self.width)[self.first :: self.step]

    def of_held(self, held: Tensor) -> Tensor:
        """Returns a view of the rows ``(rows, width)`` in what the process holds."""
        return held.view(-1)[self.held : self.held + self.rows * self.width].view(self.rows, self.width)

    def held_before(self, row: int) -> int:
        """Returns how many of the process's rows come before a row of the whole table."""
        return max(0, -((self.first - row) // self.step))

    def keep(self, held: Tensor, values: Tensor, begin: int) -> None:
        """Copies the process's part of values that are at ``begin`` and after it in the whole table."""
        table, place, end = self.of_held(held), begin, begin + len(values)
        while place < end:
            row, column = divmod(place, self.width)
            rows = 0 if column else (end - place) // self.width
            if rows:
                taken = rows * self.width
                mine = values[place - begin :][:taken].view(rows, self.width)[
                    (self.first - row) % self.step :: self.step
                ]
                before = self.held_before(row)
                table[before : before + len(mine)] = mine
            else:
                taken = min(self.width - column, end - place)
                if row % self.step == self.first:
                    table[row // self.step, column : column + taken] = values[place - begin :][:taken]
            place += taken


def cut_parameters(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Returns this process's part of the whole parameters in a state dict; parameters that are cut already are left."""
    shard, layouts = module.shard, module.layouts
    assert isinstance(shard, Shard)
    assert isinstance(layouts, dict)
    whole = {name: layout for name, layout in layouts.items() if prefix + name in state_dict}
    return {
        prefix + name: layout.cut(state_dict[prefix + name], shard)
        for name, layout in whole.items()
        if state_dict[prefix + name].shape == layout.shape
    }
