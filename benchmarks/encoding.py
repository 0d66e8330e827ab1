"""Encodes click logs of any length through the data module: rows a second, peak resident memory, bytes on disk.

    python benchmarks/encoding.py --rows 10_000_000 40_000_000
    python benchmarks/encoding.py --rows 2_000_000 --format csv
    python benchmarks/encoding.py --rows 125_000_000 --columns id --tokens 125_000_000

For each number of rows it writes a folder of files with the columns of Criteo (a label, 13 numeric columns, 26
categorical ones, half of them text), encodes it in a process of its own into an empty cache, opens it once more, and
removes both. ``--columns id`` writes one categorical column in place of the 39, of which nearly every row has a value
of its own: that is how large a vocabulary can get.
"""

from __future__ import annotations

import argparse
import shutil
import time
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from pme_lightning.data import ClickDataModule

NUMERIC, CATEGORICAL = 13, 26
ROWS_PER_FILE = 1_000_000
# Odd, so that it permutes the 32-bit integers: tokens look like the hashes in Criteo.
SCATTER = 2_654_435_761


def write_files(folder: Path, rows: int, tokens: int, columns: str, suffix: str) -> int:
    """Writes rows in files of a million; returns the bytes they take."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        generator = np.random.default_rng(number)
        n = min(ROWS_PER_FILE, rows - start)
        frame = wide(generator, n, tokens) if columns == "criteo" else narrow(generator, n, tokens, start)
        file = folder / f"part-{number:05d}.{suffix}"
        if suffix == "parquet":
            frame.write_parquet(file)
        else:
            frame.write_csv(file)
    return size_of(folder)


def wide(generator: np.random.Generator, n: int, tokens: int) -> pl.DataFrame:
    """Rows of 39 fields; each categorical one has half the values of the one before, the first ones most often."""
    columns = {"label": pl.Series((generator.random(n) < 0.25).astype(np.uint8))}
    for i in range(NUMERIC):
        values = np.floor(np.exp(generator.normal(1.0 + 0.3 * i, 2.0, n))).astype(np.int64)
        columns[f"I{i + 1}"] = pl.Series(values).set(pl.Series(generator.random(n) < 0.1), None)
    for i in range(CATEGORICAL):
        size = max(10, int(tokens * 0.5 ** (1 + i)))
        drawn = (size * generator.random(n) ** 3).astype(np.uint64)
        hashed = pl.Series((drawn * np.uint64(SCATTER) + np.uint64(i)) % np.uint64(1 << 32))
        columns[f"C{i + 1}"] = hashed.cast(pl.String) if i % 2 else hashed.cast(pl.Int64)
    return pl.DataFrame(columns)


def narrow(generator: np.random.Generator, n: int, tokens: int, start: int) -> pl.DataFrame:
    """Rows of one field: the first ``tokens`` rows have values of their own, later ones repeat them."""
    row = np.arange(start, start + n, dtype=np.uint64) % np.uint64(tokens)
    hashed = (row * np.uint64(SCATTER)) % np.uint64(1 << 32)
    return pl.DataFrame({"label": (generator.random(n) < 0.25).astype(np.uint8), "id": hashed.astype(np.int64)})


def encode(source: str, cache: str, columns: str) -> dict[str, float]:
    """Encodes a folder in this process; what it took."""
    kinds = [f"I{i + 1}" for i in range(NUMERIC)] if columns == "criteo" else None
    # Named, as the columns of CSV files are text.
    names = [f"C{i + 1}" for i in range(CATEGORICAL)] if columns == "criteo" else ["id"]
    data = ClickDataModule(source, numeric=kinds, categorical=names, binning="log2", cache_dir=cache)
    before = peak_bytes()
    started = time.perf_counter()
    data.prepare_data()
    seconds = time.perf_counter() - started
    peak = peak_bytes()
    data.setup()
    return {
        "seconds": seconds,
        "before": before,
        "peak": peak,
        "tokens": data.num_tokens,
        "rows": sum(data.rows.values()),
    }


def peak_bytes() -> int:
    """The largest resident set that this process had so far, as the kernel tells it (Linux)."""
    # Not getrusage: a new process starts with the peak of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """Prints a line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--tokens", type=int, default=2_000_000, help="values of all categorical columns together")
    parser.add_argument("--columns", choices=("criteo", "id"), default="criteo")
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--folder", help="where files and cache are made; the place of temporary files if not given")
    options = parser.parse_args()
    print("       rows      tokens   seconds      rows/s   peak MB  (before)   source MB    cache MB", flush=True)
    for rows in options.rows:
        with TemporaryDirectory(prefix="encoding-", dir=options.folder) as scratch:
            source, cache = Path(scratch) / "clicks", Path(scratch) / "cache"
            source_bytes = write_files(source, rows, options.tokens, options.columns, options.format)
            with get_context("spawn").Pool(1) as pool:
                took = pool.apply(encode, (str(source), str(cache), options.columns))
            assert took["rows"] == rows
            print(
                f"{rows:>11,} {took['tokens']:>11,.0f} {took['seconds']:>9.1f} {rows / took['seconds']:>11,.0f} "
                f"{took['peak'] / 1e6:>9,.0f} {took['before'] / 1e6:>9,.0f} {source_bytes / 1e6:>11,.0f} "
                f"{size_of(cache) / 1e6:>11,.0f}",
                flush=True,
            )
            shutil.rmtree(cache)


if __name__ == "__main__":
    main()
