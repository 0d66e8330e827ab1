"""Counting the values of many fields in one pass with bounded memory: fields of many values move to a database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pme_lightning.data.field_table import FieldTable
from pme_lightning.errors import BadInput, first_line

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Distinct values that are held in memory over all fields together: some hundred MB.
IN_MEMORY = 1 << 21
# What DuckDB may take before it goes on on disk.
_DATABASE_MEMORY = "512MB"


class ValueCounts:
    """How often each value of each field occurs in a stream of slices.

    Counts of slices are gathered and merged in memory by Polars. When the distinct values of all fields get too many,
    the fields that have most of them move to a DuckDB database, which sums, filters and sorts them on disk as far as
    its memory does not do: a field may have more values than fit in memory. Counts are exact in both.

    Args:
        num_fields: number of fields.
        folder: an empty folder for the database and the tables that it gives; they stay there until the folder goes.
        in_memory: distinct values that are held in memory.
    """

    def __init__(self, num_fields: int, folder: Path, in_memory: int = IN_MEMORY) -> None:
        self._folder = folder
        self._in_memory = in_memory
        self._parts: list[list[pl.DataFrame]] = [[] for _ in range(num_fields)]
        self._rows = [0] * num_fields
        self._moved: set[int] = set()
        self._gathered = 0
        self._connection: DuckDBPyConnection | None = None

    def add(self, field: int, values: pl.Series) -> None:
        """Counts the values of a field in a slice."""
        counts = values.to_frame("value").group_by("value").agg(pl.len().cast(pl.Int64).alias("count"))
        self._parts[field].append(counts)
        self._rows[field] += len(values)
        self._gathered += len(counts)
        if self._gathered > self._in_memory:
            self._make_room()

    def table(self, field: int, least: int) -> tuple[FieldTable, int]:
        """The values of a field with at least ``least`` rows, by falling count, then by value, missing values last.

        Returns:
            The table, and the rows whose value is not in it.
        """
        if self._rows[field] == 0:
            raise BadInput("the train split is empty: there is nothing to make a vocabulary of")
        if field not in self._moved:
            kept = _merged(self._parts[field]).filter(pl.col("count") >= least)
            table = FieldTable(kept.sort(["count", "value"], descending=[True, False], nulls_last=True))
            self._parts[field] = []
        else:
            self._store(field)
            file = self._folder / f"field_{field:03d}.parquet"
            with _on_disk(self._folder):
                self._database().execute(
                    f"COPY (SELECT value, count FROM (SELECT value, sum(count)::BIGINT AS count FROM {_name(field)} "
                    f"GROUP BY value) WHERE count >= {int(least)} ORDER BY count DESC, value ASC NULLS LAST) "
                    f"TO '{_quoted(file)}' (FORMAT parquet)"
                )
                self._database().execute(f"DROP TABLE {_name(field)}")
            table = FieldTable(file)
        return table, self._rows[field] - sum(int(counts.sum()) for counts in table.counts())

    def close(self) -> None:
        """Closes the database; the tables it gave stay."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _make_room(self) -> None:
        for field, parts in enumerate(self._parts):
            if field not in self._moved and len(parts) > 1:
                self._parts[field] = [_merged(parts)]
        # Half is left for what comes until the next time, so that a value is merged a bounded number of times.
        while self._held() > self._in_memory // 2:
            fields = [field for field in range(len(self._parts)) if field not in self._moved]
            largest = max(fields, key=lambda field: sum(map(len, self._parts[field])))
            self._moved.add(largest)
        for field in self._moved:
            self._store(field)
        self._gathered = self._held()

    def _held(self) -> int:
        return sum(len(part) for field, parts in enumerate(self._parts) if field not in self._moved for part in parts)

    def _store(self, field: int) -> None:
        if not self._parts[field]:
            return
        part = _merged(self._parts[field])
        self._parts[field] = []
        with _on_disk(self._folder):
            database = self._database()
            database.register("part", part.to_arrow())
            database.execute(f"CREATE TABLE IF NOT EXISTS {_name(field)} AS SELECT * FROM part LIMIT 0")
            database.execute(f"INSERT INTO {_name(field)} SELECT * FROM part")
            database.unregister("part")

    def _database(self) -> DuckDBPyConnection:
        if self._connection is None:
            # Imported here: only large vocabularies need it.
            import duckdb

            settings: dict[str, Any] = {
                "memory_limit": _DATABASE_MEMORY,
                "temp_directory": str(self._folder / "spill"),
                # Each thread has buffers of its own: more of them would not fit the memory.
                "threads": min(4, os.cpu_count() or 1),
            }
            self._connection = duckdb.connect(str(self._folder / "counts.duckdb"), config=settings)
        return self._connection


def _merged(parts: list[pl.DataFrame]) -> pl.DataFrame:
    if len(parts) == 1:
        return parts[0]
    return pl.concat(parts).group_by("value").agg(pl.col("count").sum())


def _name(field: int) -> str:
    return f"counts_{field}"


def _quoted(file: Path) -> str:
    return str(file).replace("'", "''")


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """Turns what the database says of a full disk into BadInput."""
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise BadInput(
            f"the values of the training rows cannot be counted in '{folder.parent}': {first_line(error)} "
            "(data.cache_dir=FOLDER moves it)"
        ) from error
