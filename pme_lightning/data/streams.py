"""Splits that are read as streams by the ``datasets`` library, shard by shard, without a copy on the disk."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pme_lightning.data.hub import cannot_read
from pme_lightning.data.options import SPLITS
from pme_lightning.data.parts import ALL, Part
from pme_lightning.errors import BadInput

if TYPE_CHECKING:
    from datasets import IterableDataset

# Rows that are read at a time.
_SLICE_ROWS = 1 << 16


@dataclass(frozen=True)
class Stream:
    """The shards of one split; small, so that it can be sent to processes that each read some of them.

    Attributes:
        name: for messages.
        builder: what ``datasets`` reads it with: ``parquet``, ``arrow``, or the id of a data set on the hub.
        files: the shards, where they are on this machine.
        revision: the commit of a data set on the hub.
        split: the name of the split there.
    """

    name: str
    builder: str
    files: tuple[Path, ...] = ()
    revision: str | None = None
    split: str = "train"

    @classmethod
    def of(cls, part: Part) -> Stream:
        """The rows of a split that was found.

        Raises:
            BadInput: they are CSV files.
        """
        if part.format == "csv":
            raise BadInput(
                f"{part.where()} is CSV, and data.streaming=true takes Parquet files and Hugging Face data sets: leave "
                "it out, and rows are encoded to the cache in bounded memory"
            )
        if part.dataset is None:
            return cls(part.where(), "parquet", part.files)
        if part.dataset.folder is not None:
            return cls(part.where(), "arrow", part.dataset.shards())
        hub = part.dataset
        return cls(part.where(), hub.repository, revision=hub.revision, split=hub.split)

    def schema(self) -> dict[str, pl.DataType]:
        """The columns with their types."""
        try:
            dataset = _opened(self)
            features = dataset.features or dataset._resolve_features().features
            return dict(pl.DataFrame(pl.from_arrow(features.arrow_schema.empty_table())).schema)
        except Exception as error:
            raise cannot_read(self.name, error) from error

    def num_shards(self) -> int:
        """How many shards there are."""
        try:
            return len(self.files) or _opened(self).num_shards
        except Exception as error:
            raise cannot_read(self.name, error) from error

    def slices(self, shard: int, columns: Sequence[str], skip: int = 0) -> Iterator[pl.DataFrame]:
        """The rows of a shard in order, some at a time.

        Args:
            shard: its number.
            columns: to read.
            skip: rows to leave out at its beginning; they are read for it.

        Raises:
            BadInput: the shard cannot be read.
        """
        try:
            dataset = _opened(self, tuple(columns))
            rows = dataset.shard(num_shards=dataset.num_shards, index=shard).select_columns(list(columns))
            for table in rows.with_format("arrow").iter(batch_size=_SLICE_ROWS):
                frame = pl.DataFrame(pl.from_arrow(table))
                left_out = min(skip, len(frame))
                skip -= left_out
                if left_out < len(frame):
                    yield frame.slice(left_out)
        except BadInput:
            raise
        except Exception as error:
            raise cannot_read(self.name, error) from error


def streams_of(parts: Mapping[str, Part], name: str, all_splits: bool) -> dict[str, Stream]:
    """The splits as streams.

    Args:
        parts: what was found.
        name: of the data set, for messages.
        all_splits: whether train, valid and test are all needed.

    Raises:
        BadInput: a split is missing, or cannot be streamed.
    """
    missing = [split for split in SPLITS if split not in parts]
    if missing and (all_splits or ALL in parts):
        found = "all rows together" if ALL in parts else f"only {', '.join(parts)}"
        raise BadInput(
            f"data.streaming=true needs the splits train, valid and test, and '{name}' has {found}: name "
            f"{' and '.join(f'data.{split}_path=PATH' for split in missing)}, or leave streaming out"
        )
    return {split: Stream.of(part) for split, part in parts.items()}


# A process has a split or two open at a time, each with the columns it reads; asking the hub again takes seconds.
@lru_cache(maxsize=8)
def _opened(stream: Stream, columns: tuple[str, ...] | None = None) -> IterableDataset:
    # Imported here: it takes a second that only its users should pay.
    import datasets

    options: dict[str, Any] = {"split": stream.split, "streaming": True}
    if stream.files:
        # What is taken for a pattern there is the name of a file here.
        options["data_files"] = [glob.escape(str(file)) for file in stream.files]
        if stream.builder == "parquet":
            # Otherwise it is the rows of the first row group, none in a file without rows.
            options["batch_size"] = _SLICE_ROWS
            if columns is not None:
                options["columns"] = list(columns)
    else:
        options["revision"] = stream.revision
    return datasets.load_dataset(stream.builder, **options)
