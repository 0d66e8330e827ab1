"""Token values: what of a column the vocabulary counts and looks up, as exact strings, integers or floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from pme_lightning.data.binning import log2_bins, quantile_bins
from pme_lightning.data.schema import Field, check_single_values
from pme_lightning.data.times import parsed
from pme_lightning.errors import BadInput, did_you_mean


def column_of(frame: pl.DataFrame, name: str, where: str = "the data") -> pl.Series:
    """A column by name; BadInput with the nearest name where it is missing."""
    if name not in frame.columns:
        raise BadInput(f"column '{name}' is missing in {where}: {did_you_mean(name, frame.columns)}")
    return frame.get_column(name)


def token_values(frame: pl.DataFrame, field: Field, edges: np.ndarray | None = None) -> pl.Series:
    """The token value of every row for one field, in canonical type (see :func:`canonical`), null where missing.

    Args:
        frame: rows with the field's column.
        field: the field.
        edges: the quantile edges of a numeric field binned by quantiles.

    Raises:
        BadInput: the column is missing, or a value is no number or no time where one is needed.
    """
    column = column_of(frame, field.source)
    check_single_values(column.name, column.dtype)
    if field.kind == "numeric":
        values = numbers(column)
        return log2_bins(values) if edges is None else quantile_bins(values, edges)
    if field.kind == "categorical":
        return canonical(column)
    return _part_of_time(column, field)


def canonical(values: pl.Series) -> pl.Series:
    """The same values as String, Int64, UInt64 or Float64, so that equal values of other widths are equal tokens.

    Text stays exactly as it is; booleans become "true" and "false", dates, times and decimals their text, the same
    in whatever unit and scale they are stored. NaN is a missing value, as the tools that write it mean it, and -0.0 is
    0.0.
    """
    dtype = values.dtype
    if dtype.is_decimal():
        return _without_zeros(values.cast(pl.String), r"(\.\d*?)0+$")
    if isinstance(dtype, pl.Datetime) and dtype.time_unit != "us":
        # Value by value: columns come in slices, and what a slice holds beside a value must not change its text.
        micro = values.dt.cast_time_unit("us")
        same = (micro.dt.cast_time_unit(dtype.time_unit) == values).fill_null(True)
        return micro.cast(pl.String).zip_with(same, values.cast(pl.String))
    if dtype in (pl.String, pl.Int64, pl.UInt64):
        return values
    if dtype.is_float():
        return _float64(values).fill_nan(None) + 0.0
    if dtype.is_integer() and dtype not in (pl.Int128, pl.UInt128):
        return values.cast(pl.Int64)
    return values.cast(pl.String)


def _float64(values: pl.Series) -> pl.Series:
    """The values as Float64; those of 32 bits as the numbers that they are written as: 0.7, not 0.699999988.

    A value that does not read as a number becomes null.
    """
    if values.dtype == pl.Float32:
        values = values.cast(pl.String)
    return values.cast(pl.Float64, strict=False)


# Every way in which a boolean is written, that of the canonical text first.
BOOLEANS = {True: ("true", "True", "TRUE", "1", "1.0"), False: ("false", "False", "FALSE", "0", "0.0")}
_READ = {text: truth for truth, texts in BOOLEANS.items() for text in texts}


def booleans_as(values: pl.Series, dtype: pl.DataType, tokens: Sequence[str]) -> pl.Series:
    """Canonical values of a column that holds booleans, or held them in training, as the training data wrote them.

    Tools write a boolean as true, True or 1, and booleans with missing values as 1.0: where a value is no token itself,
    it becomes the one that reads as the same.

    Args:
        values: canonical values; what reads as no boolean stays as it is.
        dtype: of the field's tokens.
        tokens: those of the texts of :data:`BOOLEANS` that are tokens, where tokens are text.
    """
    text = values.cast(pl.String)
    read = text.replace_strict(_READ, default=None, return_dtype=pl.Boolean)
    if dtype != pl.String:
        return read.cast(dtype) if read.null_count() == values.null_count() else values
    if values.dtype == pl.Float64 and read.null_count() > values.null_count():
        return values
    first = {truth: next((one for one in texts if one in tokens), texts[0]) for truth, texts in BOOLEANS.items()}
    written = read.replace_strict(first, default=None, return_dtype=pl.String)
    return text.zip_with(text.is_in(list(tokens)) | written.is_null(), written)


def texts_as(values: pl.Series, held: str) -> pl.Series:
    """Canonical values of a column as the training data wrote them, where that held times or decimals.

    Tools that know no dates write their midnights, and CSV files times with more or fewer digits of a second, and
    decimals with zeros behind.

    Args:
        values: canonical values as text; what is none of the type stays as it is.
        held: the type of the column in the training data.
    """
    if held == str(pl.Time):
        # Of a time of day the canonical text has no fractions of a second.
        return values.str.replace(r"^(\d{2}:\d{2}:\d{2})\.\d+$", "${1}")
    if held.startswith("Decimal"):
        return _without_zeros(values.str.replace(r"^(-?\d+)$", "${1}."), r"^(-?\d+\.\d*?)0*$")
    if held == str(pl.Date):
        return values.str.replace(r"^(\d{4}-\d{2}-\d{2})[ T]00:00:00(\.0+)?$", "${1}")
    if not held.startswith("Datetime") or "time_zone=None" not in held:
        return values
    whole = values.str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1} 00:00:00")
    whole = whole.str.replace(r"^(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})$", "${1} ${2}.000000")
    # Six digits, or as many as there are where those beyond are no zeros.
    whole = whole.str.replace(r"^(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2}\.\d{1,6})0*$", "${1} ${2}000000")
    return whole.str.replace(r"^(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\.\d{6})0*$", "${1}")


def missing_as(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Text of a column that held floats in training, NaN as missing: that is what it was there."""
    if dtype != pl.Float64 or values.dtype != pl.String:
        return values
    return values.set(values.str.to_lowercase().is_in(["nan", "-nan"]), None)


def _without_zeros(decimals: pl.Series, pattern: str) -> pl.Series:
    return decimals.str.replace(pattern, "${1}").str.replace(r"^(-?\d+)\.$", "${1}")


@dataclass
class Matches:
    """Whether columns have anything to match in the training data, slice by slice: of another kind, or of any.

    Attributes:
        found: columns of which some value could be read as the training type.
        told: what is wrong with those of which, in some slice, none could.
        with_values: columns that have any.
        known: those of which some were seen in training.
    """

    found: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    with_values: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    def note_known(self, column: str, known: bool) -> None:
        """Takes note of whether some value of a slice was seen in training; to be called where it has any."""
        # Fields are encoded at once, in threads, and may share a column: what is noted only grows.
        if column not in self.with_values:
            self.with_values.append(column)
        if known and column not in self.known:
            self.known.append(column)

    def strangers(self) -> list[str]:
        """Returns the columns that have values, none of which was seen in training, by name."""
        return sorted(set(self.with_values) - set(self.known))

    def note(self, column: str, values: pl.Series, aligned: pl.Series) -> None:
        """Takes note of the canonical values of a slice, and of what could be read of them as the training type."""
        if aligned.null_count() < len(aligned):
            if column not in self.found:
                self.found.append(column)
        elif values.null_count() < len(values):
            self.told.setdefault(
                column,
                f"column '{column}' held {_plain(aligned.dtype)} in the training data and {_plain(values.dtype)} "
                f"here, such as {values.drop_nulls()[0]!r}: none of it can be matched",
            )

    def check(self) -> None:
        """Refuses a column that has values, none of which can be read as the training type, once all were seen.

        Raises:
            BadInput: There is one.
        """
        for column, told in self.told.items():
            if column not in self.found:
                raise BadInput(told)


def align(values: pl.Series, dtype: pl.DataType, column: str, matches: Matches) -> pl.Series:
    """Canonical values brought to the type that the training data had; a value that cannot be equal becomes null.

    Integers and floats meet by value (3 and 3.0), integers and text by decimal text (7 and "7", not "007"), text
    and floats by the number that the text reads as. The caller tells such nulls from missing values.

    Args:
        values: Canonical values.
        dtype: That of the training data.
        column: Its name.
        matches: Takes note of whether there was anything to match.

    Raises:
        BadInput: floats where training had text (there is no one text of a float).
    """
    if values.dtype == dtype:
        return values
    if values.null_count() == len(values):
        # Tools that know no missing text or integer write a column without any value as floats.
        return values.cast(dtype)
    if dtype == pl.String and values.dtype == pl.Float64:
        raise BadInput(f"column '{column}' was text in the training data and holds floats here: write it as text")
    cast = values.cast(dtype, strict=False)
    # Back again: what does not return unchanged was rounded, or was another text of the same number.
    exact = cast if dtype == pl.Float64 and values.dtype == pl.String else None
    if exact is None:
        back = cast.cast(values.dtype, strict=False)
        exact = cast.set((back != values).fill_null(True), None)
    matches.note(column, values, exact)
    return exact


def numbers(column: pl.Series) -> pl.Series:
    """The column as Float64, null where missing or NaN.

    Raises:
        BadInput: a text is no number.
    """
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise BadInput(f"column '{column.name}' is numeric in the schema but holds values of type {column.dtype}")
    values = _float64(column)
    _check_all_read(column, values, "a number")
    return values.fill_nan(None)


def _part_of_time(column: pl.Series, field: Field) -> pl.Series:
    times = column
    if column.dtype not in (pl.Date, pl.Datetime):
        times = parsed(column, field.time_format)
        _check_all_read(column, times, f"a time of the form {field.time_format or 'YYYY-MM-DD HH:MM:SS'}")
    if field.kind == "hour":
        return (times.cast(pl.Datetime) if times.dtype == pl.Date else times).dt.hour().cast(pl.Int64)
    weekday = times.dt.weekday()
    return (weekday if field.kind == "weekday" else weekday >= 6).cast(pl.Int64)


def _check_all_read(column: pl.Series, read: pl.Series, what: str) -> None:
    wrong = read.is_null() & column.is_not_null()
    if wrong.any():
        value = column.filter(wrong)[0]
        raise BadInput(f"column '{column.name}': {value!r} is not {what}")


def _plain(dtype: pl.DataType) -> str:
    return {pl.String: "text", pl.Float64: "floats"}.get(type(dtype), "integers")
