"""Shuffled orders of rows: a permutation of all of them, or of blocks and of the rows in a window of blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# Up to this many rows the order is a permutation of all of them, 512 MiB in memory at most.
PERMUTED_ROWS = 1 << 26
# Rows of a block, which lie together on the disk, and blocks of a window: 4 million rows that are shuffled as one.
BLOCK_ROWS = 1 << 10
WINDOW_BLOCKS = 1 << 12


# Is told which ranges of rows will be read soon: the first of each, int64, and how long they are.
Prefetch = Callable[[Tensor, int], None]


class Order(Protocol):
    """Which row comes at which place of an epoch."""

    def rows(self, start: int, stop: int) -> Tensor:
        """The row numbers at the places ``start ... stop - 1``, int64."""


def shuffled(
    n: int, seed: int, epoch: int, prefetch: Prefetch | None = None, device: torch.device | None = None
) -> Order:
    """The order of an epoch: it depends on the number of rows, the seed, the epoch and the kind of device alone.

    Args:
        n: number of rows.
        seed: of the order.
        epoch: each has another order.
        prefetch: is told of rows before they are read, where the order is one of blocks.
        device: of the row numbers, if rows are held in its memory: any order is as good there as another, and the
            device draws it; None for rows on the processor's side.
    """
    # Mixing by a large odd constant keeps (seed, epoch) and (seed + 1, epoch - 1) apart.
    mixed = (seed * 0x9E3779B1 + epoch) % (1 << 63)
    if device is not None or n <= PERMUTED_ROWS:
        return Permuted(n, mixed, device)
    return BlockShuffled(n, mixed, prefetch)


class Permuted:
    """A permutation of all rows: 8 bytes a row."""

    def __init__(self, n: int, seed: int, device: torch.device | None = None) -> None:
        device = device or torch.device("cpu")
        generator = torch.Generator(device).manual_seed(seed)
        self._order = torch.randperm(n, generator=generator, device=device)

    def rows(self, start: int, stop: int) -> Tensor:
        """The row numbers at some places."""
        return self._order[start:stop]


class BlockShuffled:
    """Blocks of rows in random order, then the rows of each window of blocks in random order.

    Within a window every order of its rows is as likely as any other, and what blocks it is made of is drawn from the
    whole set: a batch of 4,096 rows comes from some 2,600 blocks all over it. From the disk whole blocks are read, one
    window after another, where a permutation of all rows would read a page of 4 KiB for every row. Memory: 8 bytes a
    block and 8 a row of one window. Any place of the order is found at once.

    Args:
        n: number of rows.
        seed: of the order.
        prefetch: is told of the rows of a window when the one before begins.
        block_rows: rows of a block; the last one may have fewer.
        window_blocks: blocks of a window.
    """

    def __init__(
        self,
        n: int,
        seed: int,
        prefetch: Prefetch | None = None,
        block_rows: int = BLOCK_ROWS,
        window_blocks: int = WINDOW_BLOCKS,
    ) -> None:
        self.n = n
        self.block_rows = block_rows
        self.window_blocks = window_blocks
        self._seed = seed
        num_blocks = -(-n // block_rows)
        self._blocks = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(seed))
        # What the last block lacks, and where in the order of blocks it is: windows after it begin earlier.
        self._lacking = num_blocks * block_rows - n
        self._short = int((self._blocks == num_blocks - 1).nonzero())
        self._prefetch = prefetch
        self._window = -1
        self._rows = torch.empty(0, dtype=torch.int64)

    def rows(self, start: int, stop: int) -> Tensor:
        """The row numbers at some places, int64."""
        window = start // (self.window_blocks * self.block_rows)
        if self._start(window + 1) <= start:
            window += 1
        parts = [torch.empty(0, dtype=torch.int64)]
        while start < stop:
            first, last = self._start(window), min(stop, self._start(window + 1))
            parts.append(self._of_window(window)[start - first : last - first])
            start, window = last, window + 1
        return torch.cat(parts)

    def _start(self, window: int) -> int:
        """The place where a window begins."""
        block = min(window * self.window_blocks, len(self._blocks))
        return block * self.block_rows - (self._lacking if block > self._short else 0)

    def _of_window(self, window: int) -> Tensor:
        if window != self._window:
            blocks = self._blocks_of(window)
            if self._prefetch is not None:
                ahead = self._blocks_of(window + 1)
                # The first window of an epoch, or of what is left of one, has not been fetched yet.
                soon = ahead if window == self._window + 1 and window else torch.cat([blocks, ahead])
                self._prefetch(soon.sort().values * self.block_rows, self.block_rows)
            rows = (blocks[:, None] * self.block_rows + torch.arange(self.block_rows)).reshape(-1)
            rows = rows[rows < self.n]
            # Apart from the seed of the blocks and of other windows, whatever the seeds are.
            generator = torch.Generator().manual_seed((self._seed + 0x9E3779B97F4A7C15 * (window + 1)) % (1 << 63))
            self._rows = rows[torch.randperm(len(rows), generator=generator)]
            self._window = window
        return self._rows

    def _blocks_of(self, window: int) -> Tensor:
        return self._blocks[window * self.window_blocks : (window + 1) * self.window_blocks]
