"""The vocabulary: which values of which field are tokens, and under which ids."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pme_lightning.data.field_table import FieldTable
from pme_lightning.data.fingerprint import FORMAT_VERSION, fingerprint_of
from pme_lightning.data.fitting import fitted_tokens
from pme_lightning.data.folders import check_only_own, whole_folder
from pme_lightning.data.lookup import Lookup, lookup_of
from pme_lightning.data.npy_writer import NpyWriter
from pme_lightning.data.schema import Schema
from pme_lightning.data.times import in_zone
from pme_lightning.data.tokens import BOOLEANS, Matches, align, booleans_as, missing_as, texts_as, token_values
from pme_lightning.errors import BadInput, did_you_mean, first_line


class Vocabulary:
    """The tokens of every field, fitted on training rows only.

    Within a field index 0 is out-of-vocabulary; the values with at least ``min_count`` training rows follow by
    falling count, then by value. A missing value is a value like any other, distinct from "" and from "null"; where
    the training rows have none it reads as out-of-vocabulary. A token's global id is its field's offset plus its
    index, so ids fit int32 up to 2^31 tokens.

    Make one with :meth:`fit` or :meth:`load`.

    What many tokens take: their values and counts stay in a Parquet file (see
    :class:`~pme_lightning.data.field_table.FieldTable`), 12 bytes a token are held once rows are encoded (see
    :class:`~pme_lightning.data.lookup.SortedLookup`), and 8 where frequencies are asked for.

    Args:
        schema: label and fields.
        tables: per field its tokens, out-of-vocabulary excluded, in the order of their indices.
        oov_counts: per field the training rows whose value fell below ``min_count``.
        edges: ``{field: quantile edges}`` of the fields binned by quantiles.
        folder: what the tables' files are in, if that is a temporary folder: it goes with the vocabulary.
    """

    def __init__(
        self,
        schema: Schema,
        tables: list[FieldTable],
        oov_counts: list[int],
        edges: Mapping[str, np.ndarray] | None = None,
        folder: TemporaryDirectory | None = None,
    ) -> None:
        self.schema = schema
        self.fields = [one.name for one in schema.fields]
        self.edges = dict(edges or {})
        self._tables = tables
        self._oov_counts = oov_counts
        self._folder = folder
        self.field_tokens = [len(table) + 1 for table in tables]
        if sum(self.field_tokens) >= 1 << 31:
            raise BadInput(
                f"{sum(self.field_tokens):,} tokens are more than int32 ids can number: raise data.min_count"
            )
        self.offsets = [0, *np.cumsum(self.field_tokens)[:-1].tolist()]

    @classmethod
    def fit(
        cls,
        slices: Callable[[], Iterable[pl.DataFrame]],
        schema: Schema,
        min_count: int | Mapping[str, int] = 1,
        scratch: Path | None = None,
    ) -> Vocabulary:
        """Counts the values of the training rows; memory is bounded, whatever the number of rows and of tokens.

        Args:
            slices: gives the training rows, slice by slice; called once, or twice where fields are binned by
                quantiles (edges first, then counts).
            schema: label and fields.
            min_count: fewest training rows of a token of its own: one number, or ``{field: number}``, where the key
                ``"*"`` stands for the fields not named (1 if absent).
            scratch: where a temporary folder is made for what does not fit in memory; the system's place for
                temporary files if not given.

        Raises:
            BadInput: min_count is below 1 or names no field, there are no rows, a value does not fit its field, or
                the disk is full.
        """
        return cls(schema, *fitted_tokens(slices, schema, min_count, scratch))

    @property
    def num_tokens(self) -> int:
        """``V``, the tokens of all fields."""
        return sum(self.field_tokens)

    @cached_property
    def frequencies(self) -> Tensor:
        """int64 ``(V,)``: training rows per token; for out-of-vocabulary those that fell below ``min_count``."""
        return torch.from_numpy(np.concatenate(list(self._frequencies())))

    def _frequencies(self) -> Iterator[np.ndarray]:
        for table, oov in zip(self._tables, self._oov_counts, strict=True):
            yield np.array([oov], dtype=np.int64)
            yield from table.counts()

    def save_frequencies(self, file: Path) -> None:
        """Writes :attr:`frequencies` as a .npy file, some at a time."""
        with NpyWriter(file, np.int64) as writer:
            for part in self._frequencies():
                writer.write(part)

    def tokens(self, field: str) -> pl.Series:
        """The values of a field's tokens from index 1 on (index 0, out-of-vocabulary, has none).

        Raises:
            BadInput: there is no such field.
        """
        if field not in self.fields:
            raise BadInput(f"there is no field '{field}', {did_you_mean(field, self.fields)}")
        return self._tables[self.fields.index(field)].values()

    def encode_fields(self, frame: pl.DataFrame, matches: Matches | None = None) -> np.ndarray:
        """The global ids, int32 ``(n, F)``, of rows that hold the fields' columns.

        Args:
            frame: the rows.
            matches: of all slices of the rows, where these are one of several; the caller has it checked at the end.

        Raises:
            BadInput: a column is missing, or its values are of a kind that cannot match the training data's.
        """
        if matches is None:
            matches = Matches()
            ids = self.encode_fields(frame, matches)
            matches.check()
            return ids
        frame = frame.with_columns(
            in_zone(each, self.schema.dtypes.get(each.name, "")) for each in frame if each.dtype == pl.Datetime
        )
        ids = np.empty((len(frame), len(self.fields)), dtype=np.int32)
        _ = self._lookups  # made before the threads would each make their own

        def encode(f: int) -> None:
            ids[:, f] = self._encoded(f, frame, matches)

        # numpy and Polars let other threads run while they search.
        list(self._threads.map(encode, range(len(self.fields))))
        return ids

    def _encoded(self, f: int, frame: pl.DataFrame, matches: Matches) -> np.ndarray:
        """The global ids, int32 ``(n,)``, of the values of one field."""
        field, table, offset = self.schema.fields[f], self._tables[f], self.offsets[f]
        values = token_values(frame, field, self.edges.get(field.name))
        if field.kind == "categorical":
            values = self._as_in_training(f, values, str(frame.schema[field.source]))
        index = self._lookups[f].find(align(values, table.dtype, field.source, matches))
        if values.null_count() < len(values):
            matches.note_known(field.source, bool((index > 0).any()))
        ids = index + offset
        if table.missing is not None and values.null_count():
            # Only what was missing in the data, not what could not be read as the training type.
            ids[values.is_null().to_numpy()] = offset + table.missing + 1
        return ids

    def _as_in_training(self, f: int, values: pl.Series, dtype: str) -> pl.Series:
        """Values of a column of this type, written as the training data wrote them."""
        table, held = self._tables[f], self.schema.dtypes.get(self.schema.fields[f].source)
        if "Boolean" in (dtype, held):
            values = booleans_as(values, table.dtype, self._boolean_tokens(f))
        if values.dtype == pl.String:
            values = missing_as(texts_as(values, held or ""), table.dtype)
        return values

    def _boolean_tokens(self, f: int) -> list[str]:
        """Those texts of a boolean that are tokens of a field, where its tokens are text."""
        if self._tables[f].dtype != pl.String:
            return []
        texts = [text for texts in BOOLEANS.values() for text in texts]
        return [text for text, index in zip(texts, self._lookups[f].find(pl.Series(texts)), strict=True) if index]

    @cached_property
    def _lookups(self) -> list[Lookup]:
        return [lookup_of(table) for table in self._tables]

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(min(len(self.fields), os.cpu_count() or 1))

    def __getstate__(self) -> dict[str, Any]:
        """Without threads and lookups, which a process makes of its own."""
        return {name: value for name, value in vars(self).items() if name not in ("_threads", "_lookups")}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the fields, their tokens in order and the counts."""
        return fingerprint_of(self.schema, self._tables, self._oov_counts, self.edges)

    def save(self, folder: str | Path) -> None:
        """Writes the vocabulary as a folder of one JSON file and one Parquet file per field, all or nothing.

        Raises:
            BadInput: the folder exists and holds something else.
        """
        folder = Path(folder)
        check_only_own(folder, r"vocabulary\.json|field_\d{3,}\.parquet", "a vocabulary")
        with whole_folder(folder) as partial:
            for f, table in enumerate(self._tables):
                table.write(partial / _field_file(f))
            content = {
                "version": FORMAT_VERSION,
                "fingerprint": self.fingerprint,
                "schema": self.schema.to_json(),
                "oov_counts": self._oov_counts,
                # JSON has no infinities: those are text.
                "edges": {
                    name: [edge if math.isfinite(edge) else str(edge) for edge in edges.tolist()]
                    for name, edges in self.edges.items()
                },
            }
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            (partial / "vocabulary.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Vocabulary:
        """Reads what :meth:`save` wrote.

        Raises:
            BadInput: the folder is missing, of another version, incomplete or damaged.
        """
        folder = Path(folder)
        if not (folder / "vocabulary.json").is_file():
            raise BadInput(f"no vocabulary in '{folder}': there is no vocabulary.json (runs save one beside the sizes)")
        try:
            content = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
            if content["version"] != FORMAT_VERSION:
                raise BadInput(
                    f"the vocabulary in '{folder}' has version {content['version']}, this program reads "
                    f"{FORMAT_VERSION}"
                )
            schema = Schema.from_json(content["schema"])
            tables = [FieldTable(folder / _field_file(f)) for f in range(len(schema.fields))]
            edges = {name: np.array([float(each) for each in values]) for name, values in content["edges"].items()}
            vocabulary = cls(schema, tables, content["oov_counts"], edges)
            whole = vocabulary.fingerprint == content["fingerprint"]
        except BadInput:
            raise
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise BadInput(f"the vocabulary in '{folder}' cannot be read: {first_line(error)}") from error
        if not whole:
            raise BadInput(f"the vocabulary in '{folder}' is damaged: its tokens do not match its fingerprint")
        return vocabulary


def _field_file(f: int) -> str:
    # By number, not by name: a field's name may hold what a file's may not.
    return f"field_{f:03d}.parquet"
