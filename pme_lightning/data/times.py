"""Times that come as text or integers: read by their format, and put into an order that is that of time."""

from __future__ import annotations

import re

import polars as pl

from pme_lightning.errors import BadInput, first_line

# Codes of strftime that say something about the time of day.
_CLOCK = re.compile(r"%[-_0]?(?:[HIklMSTRrXcspP+]|\.?\d?f)")
_HOUR, _MINUTE = re.compile(r"%[-_0]?[HIkl]"), re.compile(r"%[-_0]?M")
# What a time without a format may look like; such text of one kind is in the order of time.
_ISO = r"^\d{4}[-/]\d\d(?:[-/]\d\d(?:[ T]\d\d(?::\d\d(?::\d\d(?:\.\d+)?)?)?)?)?"
# What the type of a time says of its zone.
_ZONE = re.compile(r"time_zone='([^']+)'")
_ISO_FORMS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def has_clock(form: str) -> bool:
    """Whether a format (strftime codes) tells the time of day, and not the day alone."""
    return _CLOCK.search(form) is not None


def parsed(column: pl.Series, form: str | None) -> pl.Series:
    """Times of text or integers as Datetime, null where one is not of the format.

    Args:
        column: with the text.
        form: strftime codes; None for ISO 8601 without an offset, such as ``2020-06-17 12:30:00``, or a part of it.

    Raises:
        BadInput: the format itself is none.
    """
    text = column.cast(pl.String)
    if form is None:
        text = text.str.strip_chars().str.replace("T", " ", literal=True)
        read = [text.str.to_datetime(each, strict=False, time_unit="us") for each in _ISO_FORMS]
        return pl.select(pl.coalesce(read)).to_series().alias(column.name)
    if _HOUR.search(form) and not _MINUTE.search(form):
        # The parser takes no hour without a minute.
        text, form = text + ":00", form + ":%M"
    try:
        return text.str.to_datetime(form, strict=False)
    except pl.exceptions.PolarsError as error:
        reason = first_line(error)
        raise BadInput(f"column '{column.name}': the form of its times, {form}, is not understood: {reason}") from error


def in_zone(column: pl.Series, held: str) -> pl.Series:
    """A column in the time zone that the training data had: the same moments, with the hours and days of that zone.

    Args:
        column: of any type; what is no time with a zone stays as it is.
        held: the type of the column in the training data.
    """
    zone = _ZONE.search(held)
    if zone is None or not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone in (None, zone[1]):
        return column
    return column.dt.convert_time_zone(zone[1])


def in_order(time: pl.Series, form: str | None = None) -> pl.Series:
    """A column in a type whose order is the order of time.

    Args:
        time: numbers, dates, times, or text of numbers, of the format, or as in ISO 8601.
        form: strftime codes of text or integers; None if they have no format of their own.

    Raises:
        BadInput: a value is missing, or of no kind that tells an order.
    """
    if time.dtype.is_float():
        time = time.fill_nan(None)
    if time.null_count():
        row = int(time.is_null().arg_true()[0]) + 1
        raise BadInput(f"the time column '{time.name}' has no value in row {row}: leave such rows out")
    if time.dtype == pl.Boolean or time.dtype.is_nested() or time.dtype in (pl.Binary, pl.Object):
        raise BadInput(f"the time column '{time.name}' holds values of type {time.dtype}, which have no order in time")
    if form is not None and not time.dtype.is_temporal():
        read = parsed(time, form)
        _check_read(time, read, f"is not a time of the form {form}")
        return read
    if time.dtype in (pl.Categorical, pl.Enum):
        time = time.cast(pl.String)
    return _of_text(time) if time.dtype == pl.String else time


def _of_text(time: pl.Series) -> pl.Series:
    text = time.str.strip_chars()
    number = text.cast(pl.Float64, strict=False)
    if number.null_count() == 0:
        whole = text.cast(pl.Int64, strict=False)
        return number if whole.null_count() else whole
    iso = text.str.contains(_ISO + r"(?:Z|[+-]\d\d:?\d\d)?$")
    remedy = f"say the form of its times, such as data.timestamps={{{time.name}: '%d/%m/%Y %H:%M'}}"
    # The first row says which of the two they all should be.
    wanted, what = (iso, "a time such as 2020-06-17 12:30") if iso[0] else (number.is_not_null(), "a number")
    if not iso[0] and number[0] is None:
        what = "a number or a time such as 2020-06-17 12:30"
    _check_read(time, wanted.replace_strict({True: 1}, default=None, return_dtype=pl.Int8), f"is not {what}: {remedy}")
    # The sign between year and month, that between day and hour, and the offset from UTC.
    gap = text.str.slice(10, 1)
    ways = text.str.slice(4, 1).n_unique(), gap.filter(gap != "").n_unique(), text.str.replace(_ISO, "").n_unique()
    if max(ways) > 1:
        raise BadInput(f"the time column '{time.name}' writes times in several ways: {remedy}")
    return text


def _check_read(column: pl.Series, read: pl.Series, what: str) -> None:
    wrong = read.is_null()
    if wrong.any():
        row = int(wrong.arg_true()[0])
        raise BadInput(f"the time column '{column.name}': '{column[row]}' in row {row + 1} {what}")
