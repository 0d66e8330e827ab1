"""Tokens keep their exact value; what was not in train is out-of-vocabulary."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.data import Vocabulary
from pme_lightning.data.counting import ValueCounts
from pme_lightning.data.schema import infer_schema
from pme_lightning.data.tokens import Matches
from pme_lightning.errors import BadInput


def fit(train: pl.DataFrame, min_count: Any = 1, parts: int = 1, **options: Any) -> Vocabulary:
    schema = infer_schema(dict(train.schema), **options)
    size = -(-len(train) // parts)
    return Vocabulary.fit(lambda: train.iter_slices(max(size, 1)), schema, min_count)


def column(values: list, dtype: Any = None, name: str = "a") -> pl.DataFrame:
    return pl.DataFrame({name: pl.Series(values, dtype=dtype, strict=False), "label": [0] * len(values)})


def ids_of(vocabulary: Vocabulary, values: list, dtype: Any = None) -> list[int]:
    return vocabulary.encode_fields(column(values, dtype))[:, 0].tolist()


def test_order_is_by_falling_count_then_value() -> None:
    vocabulary = fit(column(["c", "b", "a", "b", "d", "c", "b"]))
    assert vocabulary.tokens("a").to_list() == ["b", "c", "a", "d"]
    assert vocabulary.frequencies.tolist() == [0, 3, 2, 1, 1]
    assert ids_of(vocabulary, ["b", "c", "a", "d", "new"]) == [1, 2, 3, 4, 0]


def test_global_ids_are_offset_plus_index() -> None:
    train = pl.DataFrame({"label": [0, 1, 1], "u": [5, 6, 5], "v": ["x", "x", "y"]})
    vocabulary = fit(train)
    assert vocabulary.fields == ["u", "v"]
    assert vocabulary.field_tokens == [3, 3]
    assert vocabulary.offsets == [0, 3]
    assert vocabulary.num_tokens == 6
    ids = vocabulary.encode_fields(train)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 4], [2, 4], [1, 5]]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([2**53, 2**53 + 1, -(2**63), 2**63 - 1], pl.Int64),
        ([0, 2**63, 2**63 + 1, 2**64 - 1], pl.UInt64),
        ([0.1, 0.1 + 2**-55, 0.30000000000000004, 0.3, 1e300], pl.Float64),
        (["null", "", " ", "NULL", "NA", "nan", "x", "x ", "X"], pl.String),
        (["\u00e9", "e\u0301", "日本", "🙂", "a\nb", 'q"q'], pl.String),
        ([True, False], pl.Boolean),
    ],
)
def test_near_values_stay_apart(values: list, dtype: Any) -> None:
    distinct = len(pl.Series(values, dtype=dtype).unique())
    vocabulary = fit(column(values, dtype), categorical=["a"])
    assert len(set(ids_of(vocabulary, values, dtype))) == distinct
    assert 0 not in ids_of(vocabulary, values, dtype)


def test_missing_is_a_token_of_its_own() -> None:
    vocabulary = fit(column([None, "", "null", None], pl.String))
    assert vocabulary.tokens("a").to_list() == [None, "", "null"]
    assert ids_of(vocabulary, [None, "", "null", "x"]) == [1, 2, 3, 0]


def test_missing_that_train_did_not_have_is_out_of_vocabulary() -> None:
    assert ids_of(fit(column([1, 2])), [None, 2]) == [0, 2]


def test_nan_is_missing_and_minus_zero_is_zero() -> None:
    vocabulary = fit(column([float("nan"), None, 0.0, 1.5]), categorical=["a"])
    assert vocabulary.field_tokens == [4]
    missing, nan, zero, minus_zero = ids_of(vocabulary, [None, float("nan"), 0.0, -0.0])
    assert missing == nan != 0
    assert zero == minus_zero != 0


def test_min_count_moves_rare_values_to_out_of_vocabulary() -> None:
    vocabulary = fit(column([1, 1, 1, 2, 2, 3, None]), min_count=2)
    assert vocabulary.tokens("a").to_list() == [1, 2]
    assert vocabulary.frequencies.tolist() == [2, 3, 2]
    assert ids_of(vocabulary, [3, None, 2, 1]) == [0, 0, 2, 1]


def test_min_count_per_field() -> None:
    train = pl.DataFrame({"label": [0] * 3, "u": [1, 1, 2], "v": [1, 1, 2], "w": [1, 1, 2]})
    vocabulary = fit(train, min_count={"u": 2, "*": 3, "v": 1})
    assert vocabulary.field_tokens == [2, 3, 1]
    assert fit(train, min_count={"u": 2}).field_tokens == [2, 3, 3]


@pytest.mark.parametrize(
    ("min_count", "message"), [(0, "at least 1"), ({"user": 2}, "no field 'user'"), ({"a": 0}, "at least 1")]
)
def test_bad_min_count(min_count: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fit(column([1, 2]), min_count=min_count)


@pytest.mark.parametrize(
    ("train", "train_dtype", "test", "test_dtype", "expected"),
    [
        ([3, 300], pl.Int16, [3, 300, 70_000], pl.Int64, [1, 2, 0]),
        ([3, 2**40], pl.Int64, [3, 4], pl.UInt8, [1, 0]),
        ([3, -1], pl.Int64, [3, 2**63], pl.UInt64, [2, 0]),
        ([3, 2**63], pl.UInt64, [3, -1], pl.Int64, [1, 0]),
        ([7, 8], pl.Int64, ["7", "007", " 8", "x", None], pl.String, [1, 0, 0, 0, 0]),
        (["7", "007"], pl.String, [7, 8], pl.Int64, [2, 0]),
        ([7, 8], pl.Int64, [7.0, 7.5, None], pl.Float64, [1, 0, 0]),
        ([7.0, 8.5], pl.Float64, [7, 9], pl.Int32, [1, 0]),
        ([0.1, 8.5], pl.Float64, ["0.1", "8.50", "x"], pl.String, [1, 2, 0]),
        ([2.0**53, 1.0], pl.Float64, [2**53 + 1, 1], pl.Int64, [0, 1]),
        ([0.5, 1.5], pl.Float64, [0.5, 1.5], pl.Float32, [1, 2]),
        (["true", "x"], pl.String, [True, False], pl.Boolean, [1, 0]),
        ([None, 5], pl.Int64, ["x", None, "5"], pl.String, [0, 2, 1]),
        ([0.1, 0.7], pl.Float64, [0.7, 0.1], pl.Float32, [2, 1]),
        ([0.1, 0.7], pl.Float32, [0.7, 0.1], pl.Float64, [2, 1]),
        ([0.1, 0.7], pl.Float32, ["0.7", "0.1"], pl.String, [2, 1]),
        (["x", None], pl.String, [float("nan"), None], pl.Float64, [2, 2]),
        ([3, 5], pl.Int64, [None, None], pl.Float64, [0, 0]),
    ],
)
def test_other_types_match_by_value_or_not_at_all(
    train: list, train_dtype: Any, test: list, test_dtype: Any, expected: list[int]
) -> None:
    vocabulary = fit(column(train, train_dtype), categorical=["a"])
    assert ids_of(vocabulary, test, test_dtype) == expected


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([1, 2], ["x", "y"], "held integers in the training data and text here, such as 'x'"),
        (["1", "2"], [1.0, 2.0], "was text in the training data"),
        ([0.5, 1.5], ["x"], "held floats in the training data and text here"),
    ],
)
def test_types_that_cannot_match_are_bad_input(train: list, test: list, message: str) -> None:
    vocabulary = fit(column(train), categorical=["a"])
    with pytest.raises(BadInput, match=message):
        ids_of(vocabulary, test)


def test_what_cannot_match_is_refused_when_all_slices_were_seen() -> None:
    vocabulary = fit(column([1, 2]), categorical=["a"])
    matches = Matches()
    for text in ("guest", "2", "guest"):
        vocabulary.encode_fields(column([text]), matches)
    matches.check()
    matches = Matches()
    for _ in range(2):
        vocabulary.encode_fields(column(["guest"]), matches)
    with pytest.raises(BadInput, match="column 'a' held integers in the training data and text here, such as 'guest'"):
        matches.check()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40, unique=True), st.integers(2, 8))
def test_bins_do_not_depend_on_how_wide_numbers_are_stored(values: list[float], bins: int) -> None:
    narrow = pl.Series("a", values, dtype=pl.Float32)
    # As a tool that writes text has them.
    wide = pl.Series("a", [float(str(np.float32(value))) for value in values], dtype=pl.Float64)
    for train, test in ((narrow, wide), (wide, narrow)):
        vocabulary = fit(pl.DataFrame({"label": [0] * len(values), "a": train}), numeric=["a"], bins=bins)
        first, second = (vocabulary.encode_fields(pl.DataFrame({"a": each})) for each in (train, test))
        assert first.tolist() == second.tolist()


def test_wrong_column_names_the_nearest() -> None:
    vocabulary = fit(column([1, 2], name="user"))
    with pytest.raises(BadInput, match=r"column 'user' is missing in the data: did you mean 'usr'\?"):
        vocabulary.encode_fields(pl.DataFrame({"usr": [1]}))


def test_numeric_fields_are_binned_and_missing_is_a_bin() -> None:
    values = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, None]
    vocabulary = fit(column(values), bins=2)
    ids = ids_of(vocabulary, [*values, -50.0, 99.0])
    low, high, missing = ids[0], ids[6], ids[7]
    assert len({low, high, missing, 0}) == 4
    assert ids == [low] * 4 + [high] * 3 + [missing, low, high]
    # The bins' frequencies are those of the rows in them.
    assert vocabulary.frequencies[[low, high, missing]].tolist() == [4, 3, 1]


def test_numeric_text_must_be_numbers() -> None:
    train = column(["1", "2.5", " 3 ", None], pl.String)
    vocabulary = fit(train, numeric=["a"])
    assert vocabulary.num_tokens == 5
    with pytest.raises(BadInput, match="column 'a': 'cheap' is not a number"):
        ids_of(vocabulary, ["1", "cheap"])


def test_time_columns() -> None:
    # 21 October 2014 was a Tuesday, 25 October a Saturday.
    train = pl.DataFrame({"label": [0, 1], "hour": [14102100, 14102523]})
    vocabulary = fit(train, timestamps={"hour": "%y%m%d%H"})
    assert vocabulary.fields == ["hour_hour", "hour_weekday", "hour_weekend"]
    assert [sorted(vocabulary.tokens(name)) for name in vocabulary.fields] == [[0, 23], [2, 6], [0, 1]]
    as_text = train.with_columns(pl.col("hour").cast(pl.String))
    assert vocabulary.encode_fields(as_text).tolist() == vocabulary.encode_fields(train).tolist()
    with pytest.raises(BadInput, match="column 'hour': 'noon' is not a time"):
        vocabulary.encode_fields(pl.DataFrame({"hour": ["14102100", "noon"]}))


@given(
    values=st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=60),
    test=st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1, max_size=20),
    min_count=st.integers(1, 4),
    parts=st.integers(1, 5),
)
def test_against_a_plain_dictionary(values: list, test: list, min_count: int, parts: int) -> None:
    counts = Counter(values)
    kept = [value for value, count in counts.items() if count >= min_count]
    kept.sort(key=lambda value: (-counts[value], value is None, value or 0))
    index = {value: i + 1 for i, value in enumerate(kept)}
    vocabulary = fit(column(values, pl.Int64), min_count, parts)
    assert ids_of(vocabulary, test, pl.Int64) == [index.get(value, 0) for value in test]
    rare = sum(count for count in counts.values() if count < min_count)
    assert vocabulary.frequencies.tolist() == [rare, *(counts[value] for value in kept)]


def test_counts_are_merged_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pme_lightning.data.fitting.ValueCounts", partial(ValueCounts, in_memory=150))
    values = np.random.default_rng(0).integers(0, 50, 2_000).tolist()
    counts = Counter(values)
    vocabulary = fit(column(values), parts=100)
    assert dict(zip(vocabulary.tokens("a"), vocabulary.frequencies[1:].tolist(), strict=True)) == counts


MIXED = pl.DataFrame(
    {
        "label": [0, 1, 1, 0],
        "user/é": [2**53 + 1, 2**53, None, 5],
        "page": ["a", "", None, "a"],
        "price": [0.5, 1.5, None, 1e9],
    }
)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    vocabulary = fit(MIXED, bins=3)
    vocabulary.save(tmp_path / "vocabulary")
    loaded = Vocabulary.load(tmp_path / "vocabulary")
    assert loaded.schema == vocabulary.schema
    assert loaded.fingerprint == vocabulary.fingerprint
    assert torch.equal(loaded.frequencies, vocabulary.frequencies)
    np.testing.assert_array_equal(loaded.encode_fields(MIXED), vocabulary.encode_fields(MIXED))
    loaded.save(tmp_path / "vocabulary")  # in place of the first
    assert Vocabulary.load(tmp_path / "vocabulary").fingerprint == vocabulary.fingerprint
    assert [one.name for one in tmp_path.iterdir()] == ["vocabulary"]


def test_fingerprint_tells_vocabularies_apart() -> None:
    prints = {
        fit(MIXED, bins=3).fingerprint,
        fit(MIXED, bins=2).fingerprint,
        fit(MIXED, min_count=2, bins=3).fingerprint,
        fit(MIXED, drop=["page"], bins=3).fingerprint,
        fit(MIXED.with_columns(page=pl.lit("b")), bins=3).fingerprint,
    }
    assert len(prints) == 5
    assert fit(MIXED, bins=3).fingerprint in prints


def test_saving_never_replaces_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("x")
    with pytest.raises(BadInput, match="holds something other than a vocabulary"):
        fit(MIXED).save(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "x"
    # Nor what somebody put beside a vocabulary.
    folder = tmp_path / "vocabulary"
    fit(MIXED).save(folder)
    fit(MIXED).save(folder)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match=r"other than a vocabulary \('notes.txt'\)"):
        fit(MIXED).save(folder)
    assert (folder / "notes.txt").read_text() == "x"


@pytest.mark.parametrize("damage", ["nothing there", "no json", "cut parquet", "other tokens", "half json", "version"])
def test_damaged_vocabularies_are_bad_input(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "vocabulary"
    if damage != "nothing there":
        fit(MIXED).save(folder)
    described = folder / "vocabulary.json"
    if damage == "no json":
        described.unlink()
    elif damage == "cut parquet":
        file = folder / "field_000.parquet"
        file.write_bytes(file.read_bytes()[:50])
    elif damage == "other tokens":
        table = pl.read_parquet(folder / "field_000.parquet")
        table.with_columns(pl.col("value") + 1).write_parquet(folder / "field_000.parquet")
    elif damage == "half json":
        described.write_text(described.read_text()[:40])
    elif damage == "version":
        described.write_text(json.dumps({**json.loads(described.read_text()), "version": 0}))
    with pytest.raises(BadInput) as error:
        Vocabulary.load(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


# The same booleans, as tools write them; a column that holds some as text alone is text.
BOOLEANS = {
    "booleans": pl.Series([True, False, False, None]),
    "integers": pl.Series([1, 0, 0, None], dtype=pl.Int8),
    "floats": pl.Series([1.0, 0.0, 0.0, float("nan")]),
    "text": pl.Series(["true", "false", "false", None]),
    "titles": pl.Series(["True", "False", "False", None]),
    "digits": pl.Series(["1", "0", "0", None]),
    "categories": pl.Series(["TRUE", "FALSE", "FALSE", None], dtype=pl.Categorical),
}


@pytest.mark.parametrize("other", BOOLEANS)
def test_booleans_meet_however_they_are_written(tmp_path: Path, other: str) -> None:
    for trained, asked in (("booleans", other), (other, "booleans")):
        rows = pl.DataFrame({"label": [0, 1, 0, 1], "flag": BOOLEANS[trained]})
        vocabulary = Vocabulary.fit(lambda rows=rows: [rows], infer_schema(dict(rows.schema), categorical=["flag"]))
        vocabulary.save(tmp_path / trained)
        for each in (vocabulary, Vocabulary.load(tmp_path / trained)):
            assert each.encode_fields(rows)[:, 0].tolist() == [2, 1, 1, 3]
            assert each.encode_fields(pl.DataFrame({"flag": BOOLEANS[asked]}))[:, 0].tolist() == [2, 1, 1, 3]


_DAYS = pl.Series([date(2024, 1, 1), date(2024, 2, 29), date(2024, 1, 1), None])
# The same days, as tools write them.
DAYS = {
    "dates": _DAYS,
    "microseconds": _DAYS.cast(pl.Datetime("us")),
    "nanoseconds": _DAYS.cast(pl.Datetime("ns")),
    "text": _DAYS.cast(pl.String),
    "midnights": _DAYS.cast(pl.String) + " 00:00:00",
    "T": _DAYS.cast(pl.String) + "T00:00:00",
}


@pytest.mark.parametrize("trained", ["dates", "microseconds", "nanoseconds"])
def test_days_meet_however_they_are_written(trained: str) -> None:
    rows = pl.DataFrame({"label": [0, 1, 0, 1], "day": DAYS[trained]})
    vocabulary = Vocabulary.fit(lambda: [rows], infer_schema(dict(rows.schema), categorical=["day"]))
    for asked, days in DAYS.items():
        assert vocabulary.encode_fields(pl.DataFrame({"day": days}))[:, 0].tolist() == [1, 2, 1, 3], asked
    noon = pl.DataFrame({"day": [datetime(2024, 1, 1, 12), datetime(2024, 2, 29)]})
    assert vocabulary.encode_fields(noon)[:, 0].tolist() == [0, 2]
    texts = pl.DataFrame({"day": ["2024-01-01 00:00:01", "1 January", "2024-02-29"]})
    assert vocabulary.encode_fields(texts)[:, 0].tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("held", "written"),
    [
        ([time(11), time(23, 59, 1)], ["11:00:00.000000000", "23:59:01.000000000"]),
        ([time(11), time(23, 59, 1)], ["11:00:00", "23:59:01"]),
        ([datetime(2024, 1, 1, 11, 0, 0, 250000), datetime(2024, 1, 1)], ["2024-01-01T11:00:00.25", "2024-01-01"]),
        (
            [datetime(2024, 1, 1, 11, 0, 0, 250000), datetime(2024, 1, 1)],
            ["2024-01-01 11:00:00.250000000", "2024-01-01T00:00:00.000"],
        ),
        ([Decimal("11.50"), Decimal("-3.00")], ["11.50", "-3"]),
        ([Decimal("11.50"), Decimal("-3.00")], ["11.500", "-3.0"]),
        ([1.5, None], ["1.50", "NaN"]),
    ],
    ids=["times", "times of day", "a date", "nine digits", "decimals", "more zeros", "missing floats"],
)
def test_values_meet_the_texts_that_tools_write(held: list[Any], written: list[str]) -> None:
    rows = pl.DataFrame({"label": [0, 1], "a": held})
    vocabulary = fit(rows, categorical=["a"])
    asked = pl.DataFrame({"a": written})
    assert vocabulary.encode_fields(asked).tolist() == vocabulary.encode_fields(rows).tolist()
    assert (vocabulary.encode_fields(asked) > 0).all()


def test_infinite_edges_are_saved_as_json_that_others_read(tmp_path: Path) -> None:
    values = [-math.inf] * 5 + [0.5, 1.5, 2.5] * 5 + [math.inf] * 5
    rows = pl.DataFrame({"label": [0, 1] * 12 + [1], "a": values})
    vocabulary = fit(rows, bins=6)
    assert not np.isfinite(vocabulary.edges["a"]).all()
    vocabulary.save(tmp_path / "saved")
    json.loads((tmp_path / "saved" / "vocabulary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    loaded = Vocabulary.load(tmp_path / "saved")
    assert loaded.fingerprint == vocabulary.fingerprint
    np.testing.assert_array_equal(loaded.encode_fields(rows), vocabulary.encode_fields(rows))


def test_a_column_of_which_nothing_is_known_is_told() -> None:
    vocabulary = fit(pl.DataFrame({"label": [0, 1], "a": ["x", "y"], "b": ["u", None]}))
    matches = Matches()
    for part in (["z", None], ["w", "x"]):
        vocabulary.encode_fields(pl.DataFrame({"a": part, "b": ["v", "w"]}), matches)
        assert matches.strangers() == (["a", "b"] if part[0] == "z" else ["b"])
    vocabulary.encode_fields(pl.DataFrame({"a": ["z"], "b": ["u"]}), matches)
    assert matches.strangers() == []
    nothing = Matches()
    vocabulary.encode_fields(pl.DataFrame({"a": [None], "b": ["u"]}, schema={"a": pl.String, "b": pl.String}), nothing)
    assert nothing.strangers() == []


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
@pytest.mark.parametrize("categorical", [["at"], []], ids=["category", "parts"])
def test_times_of_another_zone_are_the_same_moments(zone: str, categorical: list[str]) -> None:
    moments = pl.Series("at", [datetime(2026, 1, 3, 2), datetime(2026, 1, 5, 12)]).dt.replace_time_zone("UTC")
    rows = pl.DataFrame({"label": [0, 1], "at": moments.dt.convert_time_zone(zone)})
    vocabulary = fit(rows, categorical=categorical)
    for other in ("UTC", "America/New_York", "Asia/Kolkata"):
        asked = pl.DataFrame({"at": moments.dt.convert_time_zone(other)})
        np.testing.assert_array_equal(vocabulary.encode_fields(asked), vocabulary.encode_fields(rows))


def test_what_is_no_boolean_stays_what_it_is() -> None:
    rows = pl.DataFrame({"label": [0, 1, 0], "flag": [True, False, False]})
    vocabulary = Vocabulary.fit(lambda: [rows], infer_schema(dict(rows.schema)), min_count=2)
    assert vocabulary.tokens("flag").to_list() == ["false"]
    others = pl.DataFrame({"flag": [0, 1, 2, -1, None]})
    assert vocabulary.encode_fields(others)[:, 0].tolist() == [1, 0, 0, 0, 0]
    with pytest.raises(BadInput, match="column 'flag' was text in the training data and holds floats here"):
        vocabulary.encode_fields(pl.DataFrame({"flag": [0.5, 1.0]}))
    mixed = pl.DataFrame({"label": [0, 1] * 3, "flag": ["True", "true", "False"] * 2})
    schema = replace(infer_schema(dict(mixed.schema)), dtypes={"label": "Int64", "flag": "Boolean"})
    vocabulary = Vocabulary.fit(lambda: [mixed], schema)
    assert vocabulary.tokens("flag").to_list() == ["False", "True", "true"]
    texts = pl.DataFrame({"flag": ["True", "true", "TRUE", "False", "0", "no"]})
    assert vocabulary.encode_fields(texts)[:, 0].tolist() == [2, 3, 3, 1, 1, 0]
    integers = pl.DataFrame({"label": [0, 1] * 2, "user": [0, 1, 7, 9]})
    vocabulary = Vocabulary.fit(lambda: [integers], infer_schema(dict(integers.schema)))
    assert vocabulary.encode_fields(pl.DataFrame({"user": [True, False]}))[:, 0].tolist() == [2, 1]
