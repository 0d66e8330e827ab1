"""The result file: one CSV row a cell, written so that a kill at any time loses nothing but the cell in work."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pme_lightning.errors import BadInput
from pme_lightning.written_whole import written_whole

SCHEMA: dict[str, type[pl.DataType]] = {
    "dataset": pl.String,
    "backbone": pl.String,
    "method": pl.String,
    "budget": pl.Float64,  # a fraction of the full per-token parameters
    "seed": pl.Int64,
    "kept_fraction": pl.Float64,  # bytes of the embedding over those of the full one; projection and index count
    "parameters": pl.Int64,  # of the embedding: values, first-order weights, projection
    "bytes": pl.Int64,  # of the embedding, the index included
    "valid_auc": pl.Float64,
    "test_auc": pl.Float64,
    "test_logloss": pl.Float64,
    "best_epoch": pl.Int64,  # from 1
    "epochs": pl.Int64,
    "steps": pl.Int64,  # optimizer steps of the fine-tuning
    "search_seconds": pl.Float64,  # of the one search that serves all budgets of the seed
    "search_steps": pl.Int64,
    "finetune_seconds": pl.Float64,  # validation after each epoch included
    "commit": pl.String,
    "torch": pl.String,
    "threads": pl.Int64,
    "processor": pl.String,
    "date": pl.String,  # UTC, when the cell was done
    "options": pl.String,  # the words of the training recipe
    "recipe": pl.String,  # fingerprint of the training recipe
    "search": pl.String,  # fingerprint of the search
    "note": pl.String,  # why there are no metrics
}
# A cell that was measured with another recipe or another search is another cell.
KEY = ["dataset", "backbone", "method", "budget", "seed", "recipe", "search"]


class ResultFile:
    """Appends rows to one file; each is on the disk when :meth:`append` returns.

    Args:
        path: The file; it is created if need be. What a kill left of a last row is cut off.
        schema: Its columns.

    Raises:
        BadInput: The file has other columns.
    """

    def __init__(self, path: Path, schema: Mapping[str, type[pl.DataType]] = SCHEMA) -> None:
        self.path = path
        self.schema = schema
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _whole_lines(path)
        if path.exists() and path.stat().st_size > len(whole):
            os.truncate(path, len(whole))
        if not whole:
            self._write(list(schema))
        else:
            _check_header(path, whole, schema)

    def append(self, row: dict[str, Any]) -> None:
        """Writes a row; columns that it lacks stay empty."""
        unknown = row.keys() - self.schema.keys()
        if unknown:
            raise ValueError(f"the result file has no column {sorted(unknown)}")
        self._write([_text(row.get(column)) for column in self.schema])

    def _write(self, values: list[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        with self.path.open("ab") as file:
            file.write(line.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())


def shard_path(path: Path, shard: int, shards: int) -> Path:
    """Returns the file that a shard writes: beside the whole one, and found by :func:`read_results`."""
    return path if shards == 1 else path.with_name(f"{path.stem}.shard-{shard}-of-{shards}{path.suffix}")


def result_files(path: Path) -> list[Path]:
    """Returns the files that hold the results: the one that is named, and those of its shards."""
    shards = sorted(path.parent.glob(f"{path.stem}.shard-*-of-*{path.suffix}"))
    return [file for file in (path, *shards) if file.is_file()]


def read_results(
    path: Path, schema: Mapping[str, type[pl.DataType]] = SCHEMA, key: Sequence[str] = KEY
) -> pl.DataFrame:
    """Reads all rows, those of shards too; a cell that was measured twice counts as it was measured last.

    Args:
        path: The file.
        schema: Its columns, ``date`` among them.
        key: Those that tell a cell from all others.

    Raises:
        BadInput: A file has other columns, or a value that cannot be read.
    """
    frames = [pl.DataFrame(schema=schema)]
    for file in result_files(path):
        whole = _whole_lines(file)
        if not whole:
            continue
        _check_header(file, whole, schema)
        try:
            frame = pl.read_csv(whole, schema=schema)
        except pl.exceptions.PolarsError as error:
            raise BadInput(f"'{file}' cannot be read as results: {str(error).splitlines()[0]}") from error
        # No text is an empty text: null would be equal to nothing, not even to itself.
        frames.append(frame.with_columns(pl.col(pl.String).fill_null("")))
    return pl.concat(frames).sort("date", maintain_order=True).unique(list(key), keep="last", maintain_order=True)


def merge_results(path: Path) -> int:
    """Puts the rows of all shards into the one file, takes the shards' files away, and returns the number of rows."""
    rows, files = read_results(path), result_files(path)
    with written_whole(path) as partial:
        rows.write_csv(partial)
    for file in files:
        if file != path:
            file.unlink()
    return len(rows)


def current_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns what can be compared: of each data set and backbone the recipe that was used last, and of each method
    the search that was used last with it."""
    for group, kind in ((["dataset", "backbone"], "recipe"), (["dataset", "backbone", "method"], "search")):
        rows = rows.filter(pl.col(kind) == pl.col(kind).sort_by("date").last().over(group))
    return rows


def _whole_lines(path: Path) -> bytes:
    """What is in the file up to its last end of line: what follows is a row that another process is writing."""
    if not path.exists():
        return b""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _check_header(path: Path, content: bytes, schema: Mapping[str, type[pl.DataType]]) -> None:
    header = content.partition(b"\n")[0].decode(errors="replace").strip().split(",")
    if header != list(schema):
        odd = sorted(set(header) ^ set(schema)) or "their order"
        raise BadInput(f"'{path}' has other columns than this version writes ({odd}): name another file with --out")


def _text(value: Any) -> str:
    # A row is one line, whatever a message says.
    return "" if value is None else " ".join(value.split()) if isinstance(value, str) else str(value)
