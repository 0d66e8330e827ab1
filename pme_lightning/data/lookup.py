"""Looking tokens up: from values to their indices in a field, a slice of rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import polars as pl

from pme_lightning.data.field_table import FieldTable

# Up to this many tokens a join, which builds its hash table for every slice anew, is the faster one.
_JOINED = 1 << 13
# Parts that a large table is sorted in, by the leading bits of the keys, so that sorting takes no second table.
_PART_BITS = 8
# Odd, so that multiplying permutes the 64-bit integers: numbers near to each other get keys all over their range.
_SCATTER = np.uint64(0x9E3779B97F4A7C15)


class Lookup(ABC):
    """Finds the tokens of one field."""

    @abstractmethod
    def find(self, values: pl.Series) -> np.ndarray:
        """The index of each value, int32 ``(n,)``; 0 where it is no token, or missing.

        Args:
            values: in the type of the field's table.
        """


def lookup_of(table: FieldTable) -> Lookup:
    """The lookup for a field's tokens."""
    return JoinLookup(table) if table.frame is not None and len(table) <= _JOINED else SortedLookup(table)


class JoinLookup(Lookup):
    """Joins with a small table."""

    def __init__(self, table: FieldTable) -> None:
        values = table.values().to_frame("value")
        self._tokens = values.with_columns(index=pl.int_range(1, len(values) + 1, dtype=pl.Int32)).drop_nulls()

    def find(self, values: pl.Series) -> np.ndarray:
        """The index of each value; 0 where it is no token."""
        found = values.to_frame("value").join(self._tokens, on="value", how="left", maintain_order="left")
        return found["index"].fill_null(0).to_numpy()


class SortedLookup(Lookup):
    """Binary search among sorted 64-bit keys: 12 bytes a token, whatever its text is.

    The key of a number is one to one with it, that of a text is its hash. No two tokens of a field have the same hash
    (another seed is taken if so). A text that was not in the training rows may have that of a token: where the table
    is in memory its value is compared; in a larger one it is taken for the token, with a probability of
    tokens / 2^64 (5e-12 for 10^8 tokens).
    """

    def __init__(self, table: FieldTable) -> None:
        self._is_text = table.dtype == pl.String
        self._seed = 0
        while not self._build(table):
            self._seed += 1
        self._values = table.values() if self._is_text and table.frame is not None else None

    def find(self, values: pl.Series) -> np.ndarray:
        """The index of each value; 0 where it is no token."""
        keys = self._keys_of(values)
        # In the order of the keys the search goes through the table once, not from end to end for every row.
        order = np.argsort(keys)
        wanted = keys[order]
        places = np.searchsorted(self._keys, wanted)
        places[places == len(self._keys)] = 0
        found = np.where(self._keys[places] == wanted, self._index[places], np.int32(0))
        index = np.empty(len(values), dtype=np.int32)
        index[order] = found
        if values.null_count():
            index[values.is_null().to_numpy()] = 0
        if self._values is not None:
            token = self._values.gather(pl.Series(np.maximum(index, 1) - 1))
            index[~(token == values).fill_null(False).to_numpy()] = 0
        return index

    def _keys_of(self, values: pl.Series) -> np.ndarray:
        if self._is_text:
            return values.hash(self._seed).to_numpy()
        return values.fill_null(0).to_numpy().view(np.uint64) * _SCATTER

    def _build(self, table: FieldTable) -> bool:
        """Sorts the keys of all tokens but the missing value; whether they are distinct."""
        shift = np.uint64(64 - _PART_BITS)
        sizes = np.zeros(1 << _PART_BITS, dtype=np.int64)
        for values in table.batches("value"):
            part = (self._keys_of(values.drop_nulls()) >> shift).astype(np.int64)
            sizes += np.bincount(part, minlength=len(sizes))
        stops = np.cumsum(sizes)
        starts = stops - sizes
        self._keys = np.empty(int(stops[-1]), dtype=np.uint64)
        self._index = np.empty(len(self._keys), dtype=np.int32)
        free, first = starts.copy(), 1
        for values in table.batches("value"):
            index = np.arange(first, first + len(values), dtype=np.int32)
            first += len(values)
            known = values.is_not_null().to_numpy()
            keys, index = self._keys_of(values)[known], index[known]
            part = (keys >> shift).astype(np.int64)
            order = np.argsort(part, kind="stable")
            count = np.bincount(part, minlength=len(sizes))
            # Each part goes on where its last batch ended.
            places = np.repeat(free - (np.cumsum(count) - count), count) + np.arange(len(keys))
            self._keys[places] = keys[order]
            self._index[places] = index[order]
            free += count
        for start, stop in zip(starts, stops, strict=True):
            order = np.argsort(self._keys[start:stop])
            self._keys[start:stop] = self._keys[start:stop][order]
            self._index[start:stop] = self._index[start:stop][order]
        return not np.any(self._keys[1:] == self._keys[:-1])
