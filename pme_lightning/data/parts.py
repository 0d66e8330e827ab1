"""The rows of one split, as a lazy frame: files of one format, or one split of a Hugging Face data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pme_lightning.data import hub
from pme_lightning.data.csv_files import CsvOptions, scan_csv
from pme_lightning.data.file_names import format_of
from pme_lightning.errors import BadInput, first_line

# The split that holds all rows until they are divided.
ALL = "all"


@dataclass(frozen=True)
class Part:
    """The rows of one split: files of one format, or one split of a Hugging Face data set."""

    format: Literal["parquet", "csv", "hf"]
    files: tuple[Path, ...]
    dataset: hub.HubSplit | None = None

    def stamp(self) -> list[Any]:
        """What changes whenever the rows may have changed, without reading them.

        Size and the times of last write and of last change of the inode (ctime, which no program can set back), to
        the nanosecond: hashing the content instead would cost seconds per 10 GB at every start. The price is that a
        copy of the same data elsewhere is encoded anew.
        """
        stats = [(str(file.resolve()), file.stat()) for file in self.files]
        files = [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats]
        return [self.format, files, self.dataset.stamp() if self.dataset is not None else None]

    def frame(self, csv: CsvOptions) -> pl.LazyFrame:
        """The rows; the columns of CSV files are text, so that tokens keep what is written (``007``)."""
        if self.dataset is not None:
            return self.dataset.frame()
        with reading(self.where()):
            self._check_format()
            if self.format == "parquet":
                lazy = pl.scan_parquet(list(self.files), glob=False)
                lazy.collect_schema()
                return lazy
            return scan_csv(self.files, csv, infer=False)

    def types(self, csv: CsvOptions) -> dict[str, pl.DataType]:
        """The columns with their types; those of CSV files as their first rows read."""
        if self.dataset is not None or self.format == "parquet":
            return dict(self.frame(csv).collect_schema())
        with reading(self.where()):
            self._check_format()
            return dict(scan_csv(self.files[:1], csv, infer=True).collect_schema())

    def _check_format(self) -> None:
        """Refuses files of the other format, as the first of them tells by its name and its beginning."""
        with self.files[0].open("rb") as file:
            is_parquet = file.read(4) in (b"PAR1", b"PARE")
        kind = {"parquet": "Parquet", "csv": "CSV"}
        other = "csv" if self.format == "parquet" else "parquet"
        if is_parquet == (other == "parquet") and format_of(self.files[0]) == other:
            raise BadInput(
                f"'{self.files[0]}' is {kind[other]}, and data.format={self.format} takes {kind[self.format]}: "
                f"say data.format=auto, or {other}"
            )

    def where(self) -> str:
        """The rows' place, for messages."""
        if self.dataset is not None:
            return f"'{self.dataset.name}'"
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"'{self.files[0]}'{more}"


def cheap_count(parts: Mapping[str, Part]) -> int | None:
    """All rows, where the files say so themselves (those of CSV files would have to be counted).

    Raises:
        BadInput: a file cannot be read, or has other columns than the first one.
    """
    if any(part.format != "parquet" for part in parts.values()):
        return None
    count = 0
    for part in parts.values():
        with reading(part.where()):
            count += int(part.frame(CsvOptions()).select(pl.len()).collect().item())
    return count


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns what the engine says of an unreadable file into one line of BadInput."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{where} cannot be read: {first_line(error)}") from error
