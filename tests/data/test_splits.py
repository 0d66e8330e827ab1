"""Every row goes to one split, and to the right one."""

from __future__ import annotations

from itertools import chain
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.data.parts import ALL
from pme_lightning.data.splits import SplitOptions, divide
from pme_lightning.errors import BadInput


def rows(n: int) -> pl.LazyFrame:
    return pl.LazyFrame({"row": range(n)})


def divided(frames: dict[str, pl.LazyFrame], column: str = "row", **options: Any) -> dict[str, list]:
    splits: dict[str, list] = {}
    for name, division in divide(frames, SplitOptions(**options)).items():
        first = 0
        for part in frames[name].collect().iter_slices(7):
            for split in division.splits:
                splits.setdefault(split, []).extend(division.rows_of(split, part, first)[column])
            first += len(part)
    return splits


@given(n=st.integers(10, 300), seed=st.integers(0, 5))
def test_fractions_are_met_and_every_row_is_used_once(n: int, seed: int) -> None:
    splits = divided({ALL: rows(n)}, fractions=(0.6, 0.3, 0.1), seed=seed)
    assert sorted(chain(*splits.values())) == list(range(n))
    assert abs(len(splits["valid"]) - 0.3 * n) <= 0.5
    assert abs(len(splits["test"]) - 0.1 * n) <= 0.5
    assert splits == divided({ALL: rows(n)}, fractions=(0.6, 0.3, 0.1), seed=seed)


@given(n=st.integers(10, 300), seed=st.integers(0, 5))
def test_fractions_of_many_rows_are_computed_and_met_as_exactly(n: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pme_lightning.data.splits._TABULATED", 5)
        splits = divided({ALL: rows(n)}, fractions=(0.6, 0.3, 0.1), seed=seed)
        assert sorted(chain(*splits.values())) == list(range(n))
        assert abs(len(splits["valid"]) - 0.3 * n) <= 0.5
        assert abs(len(splits["test"]) - 0.1 * n) <= 0.5
        assert splits != divided({ALL: rows(n)}, fractions=(0.6, 0.3, 0.1), seed=seed + 1)


def test_other_seed_other_rows() -> None:
    assert divided({ALL: rows(200)}, seed=1) != divided({ALL: rows(200)}, seed=2)


@pytest.mark.parametrize(
    "time",
    [
        [5, 3, 9, 1, 7, 2, 8, 0, 6, 4],
        ["5", "3", "9", "1", "7", "2", "80", "0", "6", "4"],
        ["2024-01-05", "2024-01-03", "2024-01-09", "2024-01-01", "2024-01-07", "2024-01-02", "2024-01-08",
         "2023-12-31", "2024-01-06", "2024-01-04"],
    ],
)  # fmt: skip
def test_by_time_the_oldest_rows_train(time: list) -> None:
    frame = pl.LazyFrame({"row": range(10), "time": time})
    splits = divided({ALL: frame}, by="time", time_column="time", fractions=(0.6, 0.2, 0.2))
    latest = {2, 6}  # the two latest in each case
    assert set(splits["test"]) == latest
    assert set(splits["valid"]) == {4, 8}
    assert sorted(chain(*splits.values())) == list(range(10))


def test_by_column() -> None:
    names = ["train", "test", "Validation", "train", "val"]
    splits = divided({ALL: pl.LazyFrame({"row": range(5), "part": names})}, by="column", split_column="part")
    assert splits == {"train": [0, 3], "valid": [2, 4], "test": [1]}


def test_missing_splits_are_cut_from_train() -> None:
    splits = divided({"train": rows(90), "test": pl.LazyFrame({"row": [1000]})})
    assert splits["test"] == [1000]
    assert len(splits["valid"]) == 10
    assert sorted(splits["train"] + splits["valid"]) == list(range(90))
    assert {name: len(found) for name, found in divided({"train": rows(100)}).items()} == {
        "train": 80,
        "valid": 10,
        "test": 10,
    }


def test_by_time_the_missing_valid_split_is_the_latest_of_train() -> None:
    frames = {"train": rows(9), "test": pl.LazyFrame({"row": [3]})}
    assert divided(frames, by="time", time_column="row")["valid"] == [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "fractions"}, r"data.split=fractions is unknown: did you mean 'fraction'\?"),
        ({"fractions": (0.8, 0.1)}, "three positive numbers"),
        ({"fractions": (0.8, 0.2, 0.0)}, "three positive numbers"),
        ({"fractions": (0.8, 0.2, 0.2)}, "sum to 1"),
        ({"by": "time"}, "data.split=time needs data.time_column=COLUMN"),
        ({"by": "column"}, "data.split=column needs data.split_column=COLUMN"),
        ({"by": "time", "time_column": "rwo"}, r"no column 'rwo' to split by, did you mean 'row'\?"),
        ({"by": "column", "split_column": "rwo"}, r"did you mean 'row'\?"),
        ({"by": "column", "split_column": "row"}, "the split column 'row' holds '.': it takes train, valid and test"),
        ({"by": "column", "split_column": "only"}, "the valid split is empty: no row"),
        ({"by": "time", "time_column": "gap"}, "the time column 'gap' has no value in row 2"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    frame = rows(9).with_columns(only=pl.lit("train"), gap=pl.when(pl.col("row") != 1).then(pl.col("row")))
    with pytest.raises(BadInput, match=message):
        divide({ALL: frame}, SplitOptions(**options))


def test_too_few_rows_and_no_train() -> None:
    with pytest.raises(BadInput, match="the valid split is empty: 3 rows are too few"):
        divide({ALL: rows(3)}, SplitOptions())
    with pytest.raises(BadInput, match="there is no train split, only test"):
        divide({"test": rows(3)}, SplitOptions())
    with pytest.raises(BadInput, match="split into files already"):
        divide({"train": rows(3)}, SplitOptions(by="column", split_column="row"))


@pytest.mark.parametrize("name", ["*", "^t.*$"])
@pytest.mark.parametrize("by", ["time", "column"])
def test_a_column_whose_name_is_a_pattern_is_refused(name: str, by: str) -> None:
    frame = pl.LazyFrame({"label": [0, 1], name: [1, 2]})
    options = SplitOptions(by, time_column=name) if by == "time" else SplitOptions(by, split_column=name)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="reads as a pattern of names; rename it"):
        divide({"all": frame}, options)


def test_the_oldest_rows_train_by_the_form_of_their_times() -> None:
    days = [f"{day:02}/{month:02}/2020" for month in range(1, 11) for day in range(1, 11)]
    frame = pl.LazyFrame({"t": days})
    division = divide({"all": frame}, SplitOptions("time", time_column="t", time_format="%d/%m/%Y"))["all"]
    assert division.codes(frame.collect(), 0).tolist() == [0] * 80 + [1] * 10 + [2] * 10
    with pytest.raises(BadInput, match=r"data\.timestamps"):
        divide({"all": frame}, SplitOptions("time", time_column="t"))
