"""Which columns become what, and what is said of wrong names."""

from __future__ import annotations

import json

import polars as pl
import pytest

from pme_lightning.data import Field, Schema
from pme_lightning.data.schema import infer_schema
from pme_lightning.errors import BadInput

COLUMNS: dict[str, pl.DataType] = {
    "click": pl.UInt8(),
    "user": pl.Int64(),
    "page": pl.String(),
    "price": pl.Float32(),
    "mobile": pl.Boolean(),
}


def kinds(schema: Schema) -> dict[str, str]:
    return {field.name: field.kind for field in schema.fields}


def test_kinds_are_inferred_from_types() -> None:
    schema = infer_schema(COLUMNS)
    assert schema.label == "click"
    assert kinds(schema) == {
        "user": "categorical",
        "page": "categorical",
        "price": "numeric",
        "mobile": "categorical",
    }
    assert schema.fields[2] == Field("price", "numeric", binning="quantile", bins=64)


@pytest.mark.parametrize("name", ["label", "Label", "CLICK", "clicked", "target", "y"])
def test_usual_label_names_are_found(name: str) -> None:
    assert infer_schema({"a": pl.Int64(), name: pl.Int8()}).label == name


def test_what_is_named_wins_over_what_is_inferred() -> None:
    schema = infer_schema(COLUMNS, label="mobile", categorical=["price"], numeric=["user"], drop=["page"])
    assert schema.label == "mobile"
    assert kinds(schema) == {"click": "categorical", "user": "numeric", "price": "categorical"}
    assert schema.drop == ("page",)


def test_criteo_integers_are_numeric_only_beside_their_siblings() -> None:
    criteo = {"label": pl.UInt8(), "I1": pl.Int32(), "I2": pl.Int32(), "C1": pl.String(), "C2": pl.Int64()}
    assert kinds(infer_schema(criteo)) == {
        "I1": "numeric",
        "I2": "numeric",
        "C1": "categorical",
        "C2": "categorical",
    }
    alone = {"label": pl.UInt8(), "I1": pl.Int32()}
    assert kinds(infer_schema(alone)) == {"I1": "categorical"}


def test_columns_that_only_split_are_no_fields_unless_named() -> None:
    assert "user" not in kinds(infer_schema(COLUMNS, unused=["user"]))
    assert kinds(infer_schema(COLUMNS, categorical=["user"], unused=["user"]))["user"] == "categorical"


def test_times_become_hour_weekday_weekend() -> None:
    schema = infer_schema({"y": pl.Int8(), "at": pl.Datetime(), "day": pl.Date()})
    assert kinds(schema) == {
        "at_hour": "hour",
        "at_weekday": "weekday",
        "at_weekend": "weekend",
        "day_weekday": "weekday",
        "day_weekend": "weekend",
    }
    assert schema.columns() == ["at", "day"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "clik"}, "data.label: there is no column 'clik', did you mean 'click'?"),
        ({"numeric": ["prise"]}, "did you mean 'price'?"),
        ({"drop": ["usr"]}, "did you mean 'user'?"),
        ({"categorical": ["user"], "numeric": ["user"]}, "named twice"),
        ({"categorical": ["user"], "label": "user"}, "named twice"),
        ({"drop": ["user", "page", "price", "mobile"]}, "no field is left"),
        ({"binning": "quantiles"}, "did you mean 'quantile'?"),
        ({"bins": 1}, "at least 2"),
    ],
)
def test_wrong_names_are_bad_input(options: dict, message: str) -> None:
    with pytest.raises(BadInput) as error:
        infer_schema(COLUMNS, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_label_the_columns_are_listed() -> None:
    with pytest.raises(BadInput, match=r"data.label=COLUMN, one of a, b"):
        infer_schema({"a": pl.Int64(), "b": pl.Int64()})


def test_lists_are_refused_unless_dropped() -> None:
    columns = {"label": pl.Int8(), "a": pl.Int64(), "genres": pl.List(pl.String())}
    with pytest.raises(BadInput, match=r"data.drop=\[genres\]"):
        infer_schema(columns)
    assert infer_schema(columns, drop=["genres"]).drop == ("genres",)


def test_json_round_trip() -> None:
    schema = infer_schema(COLUMNS, drop=["page"], timestamps={"user": "%y%m%d%H"})
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_table_names_every_column() -> None:
    table = infer_schema(COLUMNS, drop=["page"]).table([3, 40, 1000])
    lines = table.splitlines()
    assert len(lines) == 1 + 1 + 3 + 1
    assert "price" in table
    assert "64 quantile bins" in table
    assert "40" in table
    assert lines[-1].split() == ["page", "String", "not", "used"]


SAVED = infer_schema(
    {name: pl.Int64() for name in ("click", "buy", "user", "at", "old")} | {"price": pl.Float64()},
    label="click",
    drop=["buy", "old"],
    timestamps={"at": "%y%m%d%H"},
    bins=8,
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label": "click", "categorical": ["user"], "numeric": ["price"], "drop": ["buy", "gone"], "bins": 8},
        {"timestamps": {"at": "%y%m%d%H", "day": "%d/%m/%Y"}, "unused": ["day"]},
    ],
    ids=str,
)
def test_options_that_agree_with_a_saved_schema(options: dict) -> None:
    SAVED.check_options(**options)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"label": "buy"}, "the label is 'click', not 'buy'"),
        ({"numeric": ["user"]}, "column 'user' is categorical"),
        ({"categorical": ["price"]}, "column 'price' is numeric"),
        ({"categorical": ["old"]}, "column 'old' is not used"),
        ({"drop": ["at"]}, "column 'at' is a time"),
        ({"drop": ["click"]}, "column 'click' is the label"),
        ({"timestamps": {"at": "%Y"}}, "the times of column 'at' have the form %y%m%d%H"),
        ({"binning": "log2"}, "column 'price' has quantile bins"),
        ({"bins": 5}, "column 'price' has 8 bins"),
    ],
    ids=str,
)
def test_options_that_a_saved_schema_does_not_follow(options: dict, what: str) -> None:
    with pytest.raises(BadInput, match=f"data.{next(iter(options))}: in the saved vocabulary, .*{what}: leave"):
        SAVED.check_options(**options)
