"""Labels: 0 and 1, however they were written."""

from __future__ import annotations

import numpy as np
import polars as pl

from pme_lightning.errors import BadInput


def binary_labels(column: pl.Series, first_row: int = 0, where: str = "the data") -> np.ndarray:
    """The labels as uint8 0/1 from integers, floats, booleans or their texts.

    Args:
        column: the label column, or a slice of it.
        first_row: number of rows before the slice, for the message.
        where: what the rows belong to, for the message.

    Raises:
        BadInput: a label is missing or neither 0 nor 1; names the first one and its row, counted from 1.
    """
    values = column
    if values.dtype == pl.String:
        text = values.str.strip_chars().str.to_lowercase()
        values = text.replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
    elif not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
        raise BadInput(f"the label column '{column.name}' holds values of type {values.dtype}: it takes 0 and 1")
    numeric = values.cast(pl.Float64)
    good = ((numeric == 0) | (numeric == 1)).fill_null(False)
    if not good.all():
        row = int(good.not_().arg_true()[0])
        value = column[row]
        shown = "missing" if value is None else repr(value)
        raise BadInput(f"label '{column.name}' is {shown} in row {first_row + row + 1} of {where}: labels are 0 and 1")
    return numeric.cast(pl.UInt8).to_numpy()
