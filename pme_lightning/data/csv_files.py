"""CSV files as lazy frames of text, and which of their lines is to blame when they cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pme_lightning.errors import BadInput

# Rows read to tell the types of a CSV file's columns.
_INFERENCE_ROWS = 10_000
# Bytes that tell how lines end.
_BEGINNING = 1 << 16


@dataclass(frozen=True)
class CsvOptions:
    """How CSV files are written.

    Attributes:
        separator: one character; None means a tab for .tsv and .txt, a comma otherwise.
        header: whether the first line holds the column names.
        column_names: the names, where there is no header (or instead of it); column_1, column_2, ... if neither.
    """

    separator: str | None = None
    header: bool = True
    column_names: tuple[str, ...] | None = None

    def separator_of(self, file: Path) -> str:
        """The separator of a file's columns.

        Raises:
            BadInput: it is more than one character.
        """
        separator = self.separator
        if separator is None:
            separator = "\t" if re.search(r"\.(tsv|txt)(\.gz)?$", file.name.lower()) else ","
        separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
        if len(separator.encode()) != 1:
            raise BadInput(f"data.separator must be one character, not {separator!r}")
        return separator


def scan_csv(files: Sequence[Path], options: CsvOptions, infer: bool) -> pl.LazyFrame:
    """The rows of CSV files; a line without a value in any column is no row.

    Args:
        files: of one layout.
        options: how they are written.
        infer: whether columns take the types that their first rows read as; they are text otherwise.

    Raises:
        BadInput: a column name is there twice, names and columns differ in number, the lines end in no newline, or the
            first of them is not UTF-8.
    """
    lazy = _all_lines(files, options, infer)
    names = lazy.collect_schema().names()
    _check_beginning(files[0], options.header)
    # The engine reads an empty line as a row of missing values.
    lazy = lazy.filter(pl.any_horizontal(pl.all().is_not_null()))
    wanted = options.column_names
    if wanted is None and not options.header:
        wanted = tuple(f"column_{i + 1}" for i in range(len(names)))
    if wanted is None:
        if any("_duplicated_" in name for name in names):
            # So the engine renames a second column of one name; only the line itself tells it from a name like that.
            _check_once(next((record for _, record in _records(files[0], options)), []), f"'{files[0]}'")
        if not any('""' in name for name in names):
            return lazy
        # The engine leaves quotes within a name doubled.
        wanted = tuple(next(record for _, record in _records(files[0], options)))
    _check_once(wanted, "data.column_names")
    if len(wanted) != len(names):
        raise BadInput(f"data.column_names has {len(wanted)} names, but '{files[0]}' has {len(names)} columns")
    return lazy.rename(dict(zip(names, wanted, strict=True)))


def _all_lines(files: Sequence[Path], options: CsvOptions, infer: bool) -> pl.LazyFrame:
    return pl.scan_csv(
        list(files),
        has_header=options.header,
        separator=options.separator_of(files[0]),
        null_values=[""],
        infer_schema=infer,
        infer_schema_length=_INFERENCE_ROWS,
        glob=False,
    )


def line_without_values(files: Sequence[Path], options: CsvOptions) -> str | None:
    """Where a line that is not empty has no value in any column, such as ``line 7 of 'a.csv'``; None if nowhere."""
    lazy = _all_lines(files, options, infer=False)
    if not lazy.select(pl.all_horizontal(pl.all().is_null()).any()).collect(engine="streaming").item():
        return None
    for file in files:
        for line, record in _records(file, options):
            if not any(record):
                return f"line {line} of '{file}'"
    return None


def line_of_value(files: Sequence[Path], options: CsvOptions, column: int, value: str | None) -> str | None:
    """Where a column first holds a value (None: nothing), such as ``line 7 of 'a.csv'``; None if nowhere."""
    for file in files:
        try:
            for number, (line, record) in enumerate(_records(file, options)):
                cell = record[column] if column < len(record) else ""
                if cell == (value or "") and any(record) and not (options.header and number == 0):
                    return f"line {line} of '{file}'"
        except (csv.Error, UnicodeDecodeError, OSError, EOFError):
            return None
    return None


def faulty_line(files: Sequence[Path], options: CsvOptions) -> str | None:
    """The first line with more columns than the first one, or with a quote that is not closed; None if none has."""
    for file in files:
        width = 0
        try:
            for line, record in _records(file, options):
                width = width or len(record)
                if len(record) > width:
                    return f"line {line} of '{file}' has {len(record)} columns, the first line has {width}"
        except csv.Error as error:
            return f"line {error.args[0]} of '{file}' has a quote that is not closed or not doubled"
        except UnicodeDecodeError as error:
            return f"'{file}' is not UTF-8 text: {error.reason}"
        except (OSError, EOFError) as error:
            return f"'{file}' cannot be read: {error}"
    return None


def _records(file: Path, options: CsvOptions) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the number of the line where it begins."""
    with io.TextIOWrapper(_unpacked(file), encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=options.separator_of(file), strict=True)
        line = 1
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            raise csv.Error(line) from error


def _unpacked(file: Path) -> io.BufferedReader:
    with file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.open(file)) if packed else file.open("rb")


def _check_beginning(file: Path, header: bool) -> None:
    """Refuses a file whose lines, as far as its beginning tells, end in no newline, or whose names are not UTF-8."""
    try:
        with _unpacked(file) as content:
            beginning = content.read(_BEGINNING)
    except (OSError, EOFError):
        return  # the engine says what is wrong
    first, newline, _ = beginning.partition(b"\n")
    if header and newline and (b"\0" in first or not _is_utf8(first)):
        raise BadInput(f"the first line of '{file}' is not UTF-8 text: write the file as UTF-8")
    if b"\r" in beginning and not newline:
        raise BadInput(f"the lines of '{file}' end in a carriage return alone: write it with newlines")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_once(names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"the column name '{name}' is there {names.count(name)} times in {where}: rename one")
