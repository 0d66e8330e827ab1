"""Where in the files a fault is: looked up only after reading has failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import polars as pl

from pme_lightning.data.csv_files import CsvOptions, faulty_line, line_of_value
from pme_lightning.data.labels import BadLabel
from pme_lightning.data.parts import Part, reading
from pme_lightning.errors import BadInput


@contextmanager
def located(parts: Mapping[str, Part], csv: CsvOptions) -> Iterator[None]:
    """Adds file and line or row to what is said of a bad label or of rows that the engine cannot read."""
    try:
        yield
    except BadLabel as error:
        for part in parts.values():
            place = _place_of_label(part, csv, error)
            if place is not None:
                raise BadInput(f"{error.fault}, in {place}: {error.remedy}") from error
        raise
    except BadInput as error:
        if not isinstance(error.__cause__, pl.exceptions.PolarsError):
            raise
        for part in parts.values():
            fault = faulty_line(part.files, csv) if part.format == "csv" else None
            fault = fault or _odd_file(part, csv)
            if fault is not None:
                raise BadInput(fault) from error
        if "CSV malformed" in str(error):
            places = ", ".join(part.where() for part in parts.values())
            raise BadInput(f"{places} cannot be read: is there a quote within a cell that is not doubled?") from error
        raise


def _odd_file(part: Part, csv: CsvOptions) -> str | None:
    """The first file whose columns are not those of the first one; None if there is none."""
    if part.dataset is not None or len(part.files) < 2 or (part.format == "csv" and not csv.header):
        return None
    first, *others = (Part(part.format, (file,)) for file in part.files)
    columns = dict(first.frame(csv).collect_schema())
    for other in others:
        own = dict(other.frame(csv).collect_schema())
        place, before = f"'{other.files[0]}'", f"'{first.files[0]}'"
        for name, dtype in columns.items():
            if name not in own:
                return f"{place} has no column '{name}', which {before} has: all files need the same columns"
            if own[name] != dtype:
                return f"column '{name}' is {own[name]} in {place} and {dtype} in {before}: write it as one type"
        more = [name for name in own if name not in columns]
        if more:
            return f"{place} has a column '{more[0]}', which {before} has not: all files need the same columns"
        if list(own) != list(columns):
            return f"{place} has the columns of {before} in another order: write them in one"
    return None


def _place_of_label(part: Part, csv: CsvOptions, error: BadLabel) -> str | None:
    if part.format == "csv":
        names = part.frame(csv).collect_schema().names()
        return line_of_value(part.files, csv, names.index(error.column), error.value)
    # Rows of a file count from 1; those of a data set's Arrow files have no file of their own to look into.
    for one in [Part(part.format, (file,)) for file in part.files] if part.dataset is None else [part]:
        with reading(one.where()):
            frame = one.frame(csv)
            if error.column not in frame.collect_schema().names():
                continue
            values = frame.select(error.column).with_row_index("row")
            found = values.filter(pl.col(error.column).eq_missing(pl.lit(error.value))).head(1).collect()
        if len(found):
            return f"row {found['row'].item() + 1} of {one.where()}"
    return None
