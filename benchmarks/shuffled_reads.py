"""What reading in shuffled order costs from a disk: a permutation of all rows against blocks in windows.

    python benchmarks/shuffled_reads.py --gigabytes 8

Writes rows of 39 ids to a memory-mapped file, puts the file out of the page cache before each order, and reads batches
through the data set and the sampler's orders for some seconds. A set beyond memory is read like that all the time; as
this file is not, the seconds must be too few to read a good part of it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pme_lightning.data import ClickDataset
from pme_lightning.data.orders import BlockShuffled, Order, Permuted

# Rows that are shuffled as one.
WINDOW = 1 << 22
Shape = Callable[[ClickDataset], Order]
FIELDS, BATCH = 39, 4096


def forget(file: Path) -> None:
    """Puts a file out of the page cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(file: Path, n: int, shape: Shape | None, seconds: float) -> float:
    """Rows a second of the first batches of an order (None: as they lie), two windows at least where it has windows."""
    forget(file)
    dataset = ClickDataset(np.memmap(file, np.int32, "r", shape=(n, FIELDS)), None)
    order = shape(dataset) if shape is not None else None
    done, started = 0, time.perf_counter()
    least = 2 * WINDOW if isinstance(order, BlockShuffled) else 0
    while done + BATCH <= n and (done < least or time.perf_counter() - started < seconds):
        dataset[slice(done, done + BATCH) if order is None else order.rows(done, done + BATCH)]
        done += BATCH
    return done / (time.perf_counter() - started)


def blocks(n: int, block: int, dataset: ClickDataset) -> Order:
    """An order of blocks that fetches them ahead."""
    return BlockShuffled(n, 0, dataset.prefetch, block, WINDOW // block)


def main() -> None:
    """Prints a line for each order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each order")
    parser.add_argument("--folder", help="on the disk to measure")
    options = parser.parse_args()
    n = int(options.gigabytes * 1e9 / (4 * FIELDS))
    with TemporaryDirectory(prefix="reads-", dir=options.folder) as folder:
        file = Path(folder) / "ids"
        piece = np.random.default_rng(0).integers(0, 1 << 20, (1 << 18, FIELDS), dtype=np.int32)
        with file.open("wb") as opened:
            for start in range(0, n, len(piece)):
                opened.write(piece[: n - start].data)
        orders: dict[str, Shape | None] = {"as they lie": None, "permutation of all rows": lambda _: Permuted(n, 0)}
        for block in (64, 256, 1024, 4096):
            name = f"blocks of {block:,} rows, windows of {WINDOW:,}"
            orders[name] = partial(blocks, n, block)
        print(f"{n:,} rows, batches of {BATCH:,}, first {options.seconds:g} s of each order, nothing in the page cache")
        for name, order in orders.items():
            print(f"{name:<48} {read(file, n, order, options.seconds):>12,.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
