"""Fits a vocabulary on the training rows: bins of numeric fields first, then the values of every field, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from pme_lightning.data.binning import QuantileSample
from pme_lightning.data.counting import ValueCounts
from pme_lightning.data.field_table import FieldTable
from pme_lightning.data.folders import TEMPORARY, writing
from pme_lightning.data.options import check_whole_number
from pme_lightning.data.schema import Schema
from pme_lightning.data.tokens import column_of, numbers, token_values
from pme_lightning.errors import BadInput, did_you_mean

# The key of a min_count dict that stands for all fields it does not name.
_ANY_FIELD = "*"


def fitted_tokens(
    slices: Callable[[], Iterable[pl.DataFrame]],
    schema: Schema,
    min_count: int | Mapping[str, int],
    scratch: Path | None,
) -> tuple[list[FieldTable], list[int], dict[str, np.ndarray], TemporaryDirectory | None]:
    """Counts the values of the training rows; arguments and errors as in :meth:`Vocabulary.fit`.

    Returns:
        What a :class:`~pme_lightning.data.vocabulary.Vocabulary` is made of: per field the tokens and the
        out-of-vocabulary count, the quantile edges, and the temporary folder of the tables' files, if there are any.
    """
    fields = schema.fields
    least = _least_counts(min_count, [one.name for one in fields])
    edges = _quantile_edges(slices, schema)
    with writing(scratch):
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=TEMPORARY, dir=scratch)
    counts = ValueCounts(len(fields), Path(folder.name))
    try:
        for part in slices():
            for f, one in enumerate(fields):
                counts.add(f, token_values(part, one, edges.get(one.name)))
        found = [counts.table(f, least[one.name]) for f, one in enumerate(fields)]
    except BaseException:
        counts.close()
        folder.cleanup()
        raise
    counts.close()
    tables, oov_counts = map(list, zip(*found, strict=True))
    if any(table.file is not None for table in tables):
        return tables, oov_counts, edges, folder
    folder.cleanup()
    return tables, oov_counts, edges, None


def _quantile_edges(slices: Callable[[], Iterable[pl.DataFrame]], schema: Schema) -> dict[str, np.ndarray]:
    binned = [one for one in schema.fields if one.binning == "quantile"]
    if not binned:
        return {}
    samples = {one.name: QuantileSample() for one in binned}
    for part in slices():
        for one in binned:
            samples[one.name].add(numbers(column_of(part, one.source)).drop_nulls().to_numpy())
    return {one.name: samples[one.name].edges(one.bins) for one in binned}


def _least_counts(min_count: int | Mapping[str, int], fields: list[str]) -> dict[str, int]:
    if not isinstance(min_count, Mapping):
        min_count = {_ANY_FIELD: min_count}
    for name, least in min_count.items():
        if name != _ANY_FIELD and name not in fields:
            raise BadInput(f"data.min_count: there is no field '{name}', {did_you_mean(name, [*fields, _ANY_FIELD])}")
        check_whole_number("min_count", least, 1)
    return {name: min_count.get(name, min_count.get(_ANY_FIELD, 1)) for name in fields}
