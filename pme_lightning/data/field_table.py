"""The tokens of one field with their counts: in memory, or in a Parquet file where they are many."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

# Tokens of a field that are held in memory; above, they stay in their file and are read in batches.
IN_MEMORY = 1 << 20
_BATCH = 1 << 20


class FieldTable:
    """Columns ``value`` and ``count`` (Int64), a row for each token of a field in the order of their indices.

    Args:
        source: the table, or the Parquet file that holds it; a small file is read at once.
    """

    def __init__(self, source: pl.DataFrame | Path) -> None:
        self.file: Path | None = None
        self.frame: pl.DataFrame | None = None
        if isinstance(source, Path):
            lazy = pl.scan_parquet(source, glob=False)
            self._len = int(lazy.select(pl.len()).collect().item())
            schema = lazy.collect_schema()
            if schema.names() != ["value", "count"]:
                raise ValueError(f"'{source}' holds the columns {', '.join(schema.names())}, not value and count")
            self.dtype: pl.DataType = schema["value"]
            if self._len > IN_MEMORY:
                self.file = source
            else:
                self.frame = lazy.collect()
        else:
            self.frame, self._len, self.dtype = source, len(source), source.schema["value"]
        self.missing = self._missing_row()

    def __len__(self) -> int:
        """The number of tokens."""
        return self._len

    def batches(self, column: str) -> Iterator[pl.Series]:
        """A column in order, some at a time: the whole of it where it is in memory."""
        if self.frame is not None:
            yield self.frame.get_column(column)
            return
        lazy = pl.scan_parquet(self.file, glob=False).select(column)  # type: ignore[arg-type]
        for part in lazy.collect_batches(chunk_size=_BATCH, maintain_order=True):
            yield part.to_series()

    def values(self) -> pl.Series:
        """All values, read into memory."""
        return pl.concat(list(self.batches("value")))

    def counts(self) -> Iterator[np.ndarray]:
        """The counts, int64, some at a time."""
        for part in self.batches("count"):
            yield part.to_numpy()

    def write(self, file: Path) -> None:
        """Writes the table as a Parquet file."""
        if self.frame is not None:
            # By way of memory: the engine's own errors do not tell a full disk from anything else.
            content = io.BytesIO()
            self.frame.write_parquet(content)
            file.write_bytes(content.getbuffer())
        else:
            shutil.copyfile(self.file, file)  # type: ignore[arg-type]

    def _missing_row(self) -> int | None:
        """The row of the missing value, None where there is none."""
        start = 0
        for part in self.batches("value"):
            if part.null_count():
                return start + int(part.is_null().arg_true()[0])
            start += len(part)
        return None
