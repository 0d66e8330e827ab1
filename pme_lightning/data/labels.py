"""Labels: 0 and 1, however they were written."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from pme_lightning.errors import BadInput


class BadLabel(BadInput):
    """A label that is missing or neither 0 nor 1.

    Attributes:
        column: the label column.
        value: the label, None if missing.
        fault: what is wrong, without the place.
        remedy: what would be right.
    """

    def __init__(self, column: str, value: Any, where: str) -> None:
        self.column = column
        self.value = value
        self.fault = f"label '{column}' is {'missing' if value is None else repr(value)}"
        self.remedy = "labels are 0 and 1"
        super().__init__(f"{self.fault} in {where}: {self.remedy}")


def binary_labels(column: pl.Series, where: str = "the data") -> np.ndarray:
    """The labels as uint8 0/1 from integers, floats, booleans or their texts, as categories too.

    Args:
        column: the label column, or a slice of it.
        where: what the rows belong to, for the message.

    Raises:
        BadLabel: a label is missing or neither 0 nor 1; names the first one.
        BadInput: the column's values are of another kind.
    """
    values = column.cast(pl.String) if column.dtype in (pl.Categorical, pl.Enum) else column
    if values.dtype == pl.String:
        text = values.str.strip_chars().str.to_lowercase()
        values = text.replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
    elif not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
        raise BadInput(f"the label column '{column.name}' holds values of type {values.dtype}: it takes 0 and 1")
    numeric = values.cast(pl.Float64)
    good = ((numeric == 0) | (numeric == 1)).fill_null(False)
    if not good.all():
        raise BadLabel(column.name, column.filter(good.not_())[0], where)
    return numeric.cast(pl.UInt8).to_numpy()
