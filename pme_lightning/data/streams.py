"""Splits that are read as streams by the ``datasets`` library, shard by shard, without a copy on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pme_lightning.data.hub import cannot_read
from pme_lightning.data.sources import Part
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
            arrow = tuple(file for file in part.files if file.suffix == ".arrow")
            return cls(part.where(), "arrow", arrow)
        hub = part.dataset
        return cls(part.where(), hub.repository, revision=hub.revision, split=hub.split)

    def schema(self) -> dict[str, pl.DataType]:
        """The columns with their types."""
        dataset = self._open()
        try:
            features = dataset.features or dataset._resolve_features().features
            return dict(pl.DataFrame(pl.from_arrow(features.arrow_schema.empty_table())).schema)  # type: ignore[union-attr]
        except Exception as error:
            raise cannot_read(self.name, error) from error

    def num_shards(self) -> int:
        """How many shards there are."""
        return len(self.files) or self._open().num_shards

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
            dataset = self._open(shard, list(columns)).select_columns(list(columns)).with_format("arrow")
            for table in dataset.iter(batch_size=_SLICE_ROWS):
                frame = pl.DataFrame(pl.from_arrow(table))
                left_out = min(skip, len(frame))
                skip -= left_out
                if left_out < len(frame):
                    yield frame.slice(left_out)
        except BadInput:
            raise
        except Exception as error:
            raise cannot_read(self.name, error) from error

    def _open(self, shard: int | None = None, columns: list[str] | None = None) -> IterableDataset:
        # Imported here: it takes a second that only its users should pay.
        import datasets

        options: dict[str, Any] = {"split": self.split, "streaming": True}
        if self.files:
            files = self.files if shard is None else self.files[shard : shard + 1]
            options["data_files"] = [str(file) for file in files]
            if self.builder == "parquet" and columns is not None:
                options["columns"] = columns
            return datasets.load_dataset(self.builder, **options)
        dataset = datasets.load_dataset(self.builder, revision=self.revision, **options)
        return dataset if shard is None else dataset.shard(num_shards=dataset.num_shards, index=shard)
