"""Counts are exact, in memory and in the database, and so is what is looked up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pme_lightning.data import field_table, lookup
from pme_lightning.data.counting import ValueCounts
from pme_lightning.data.field_table import FieldTable
from pme_lightning.data.lookup import JoinLookup, SortedLookup, lookup_of
from pme_lightning.data.schema import infer_schema
from pme_lightning.data.vocabulary import Vocabulary
from pme_lightning.errors import BadInput

VALUES = {
    pl.Int64: [0, 1, -1, 2**63 - 1, -(2**63), 7, None],
    pl.UInt64: [0, 2**63, 2**64 - 1, 5, None],
    pl.Float64: [0.0, 0.5, -1e300, float("inf"), -float("inf"), None],
    pl.String: ["", "a", "b\0c", "é", "e\u0301", "NULL", "'; DROP TABLE counts_0", "x" * 300, None],
}


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("least", [1, 3])
def test_the_database_counts_and_sorts_as_memory_does(tmp_path: Path, dtype: Any, least: int) -> None:
    generator = np.random.default_rng(0)
    values = VALUES[dtype]
    drawn = [values[i] for i in generator.integers(0, len(values), 40)] + values[:2]
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()
    memory, disk = ValueCounts(2, tmp_path / "memory"), ValueCounts(2, tmp_path / "disk", in_memory=1)
    for start in range(0, len(drawn), 6):
        for counts in (memory, disk):
            for field in (0, 1):
                counts.add(field, pl.Series(drawn[start : start + 6], dtype=dtype))
    expected, oov = memory.table(1, least)
    found, found_oov = disk.table(1, least)
    disk.close()
    assert (tmp_path / "disk" / "counts.duckdb").exists()
    assert not list((tmp_path / "memory").iterdir())
    assert found.frame is not None
    assert found.frame.equals(expected.frame)
    assert found.frame.schema == expected.frame.schema
    assert found_oov == oov
    assert found.missing == expected.missing
    counted = Counter(drawn)
    assert oov == sum(count for count in counted.values() if count < least)
    assert dict(found.frame.rows()) == {value: count for value, count in counted.items() if count >= least}


def test_only_the_fields_of_many_values_move(tmp_path: Path) -> None:
    counts = ValueCounts(3, tmp_path, in_memory=100)
    for start in range(0, 1000, 50):
        counts.add(0, pl.Series([1, 2, 3]))
        counts.add(1, pl.Series(range(start, start + 50)))
        counts.add(2, pl.Series([str(start % 200)]))
    assert counts._moved == {1}
    assert [len(counts.table(field, 1)[0]) for field in range(3)] == [3, 1000, 4]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    counts = ValueCounts(1, tmp_path / "missing", in_memory=1)
    with pytest.raises(
        BadInput, match=r"the values of the training rows cannot be counted in .*data.cache_dir"
    ) as error:
        counts.add(0, pl.Series([1, 2, 3]))
    assert "\n" not in str(error.value)


texts = st.text(alphabet="ab\0é", max_size=3)


@settings(deadline=None)
@given(tokens=st.lists(st.none() | texts, unique=True, min_size=1, max_size=30), asked=st.lists(st.none() | texts))
def test_texts_are_found_among_sorted_hashes(tokens: list, asked: list) -> None:
    table = FieldTable(pl.DataFrame({"value": pl.Series(tokens, dtype=pl.String), "count": [1] * len(tokens)}))
    values = pl.Series(asked, dtype=pl.String)
    expected = [tokens.index(one) + 1 if one in tokens and one is not None else 0 for one in asked]
    for found in (SortedLookup(table), JoinLookup(table)):
        assert found.find(values).tolist() == expected


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=60),
    others=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
)
def test_numbers_are_found_among_sorted_keys(tokens: list, others: list) -> None:
    table = FieldTable(pl.DataFrame({"value": pl.Series(tokens, dtype=pl.Int64), "count": [1] * len(tokens)}))
    asked = [*tokens, *others]
    expected = [tokens.index(one) + 1 if one in tokens else 0 for one in asked]
    assert SortedLookup(table).find(pl.Series(asked, dtype=pl.Int64)).tolist() == expected


def test_a_text_with_the_hash_of_a_token_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def length(self: SortedLookup, values: pl.Series) -> np.ndarray:
        # A hash that many texts have; with another seed none of the tokens share it.
        last = values.str.slice(-1).fill_null("").replace_strict({"a": 1, "b": 2}, default=0)
        return (values.str.len_bytes().fill_null(0) + self._seed * last).cast(pl.UInt64).to_numpy()

    monkeypatch.setattr(SortedLookup, "_keys_of", length)
    table = FieldTable(pl.DataFrame({"value": ["ca", "cb"], "count": [2, 1]}))
    found = SortedLookup(table)
    assert found._seed == 1
    assert found.find(pl.Series(["ca", "xa", "cb", "yb", None])).tolist() == [1, 0, 2, 0, 0]


FRAME = pl.DataFrame(
    {
        "label": [0, 1] * 150,
        "user": [None if i % 11 == 0 else i % 97 for i in range(300)],
        "page": [None if i % 13 == 0 else f"page {i % 89}" for i in range(300)],
    }
)


def test_a_vocabulary_on_disk_is_that_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit() -> Vocabulary:
        return Vocabulary.fit(lambda: FRAME.iter_slices(40), infer_schema(dict(FRAME.schema)), 3, tmp_path / "scratch")

    expected = fit()
    expected_ids = expected.encode_fields(FRAME)
    assert not list((tmp_path / "scratch").iterdir())
    monkeypatch.setattr("pme_lightning.data.counting.ValueCounts.__init__.__defaults__", (10,))
    monkeypatch.setattr(field_table, "IN_MEMORY", 5)
    monkeypatch.setattr(field_table, "_BATCH", 7)
    monkeypatch.setattr(lookup, "_JOINED", 5)
    vocabulary = fit()
    assert all(table.frame is None for table in vocabulary._tables)
    assert vocabulary.fingerprint == expected.fingerprint
    assert vocabulary.frequencies.tolist() == expected.frequencies.tolist()
    assert vocabulary.tokens("page").to_list() == expected.tokens("page").to_list()
    np.testing.assert_array_equal(vocabulary.encode_fields(FRAME), expected_ids)
    new = pl.DataFrame({"label": [0, 1], "user": [1000, None], "page": ["page", "page 1"]})
    np.testing.assert_array_equal(vocabulary.encode_fields(new), expected.encode_fields(new))
    vocabulary.save(tmp_path / "saved")
    folder = Path(vocabulary._folder.name)
    assert folder.parent == tmp_path / "scratch"
    del vocabulary
    assert not folder.exists()
    again = Vocabulary.load(tmp_path / "saved")
    assert all(table.frame is None for table in again._tables)
    np.testing.assert_array_equal(again.encode_fields(FRAME), expected_ids)
    assert isinstance(lookup_of(again._tables[0]), SortedLookup)
