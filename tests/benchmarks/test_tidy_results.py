"""The result file: whole rows only, whatever happens; shards; which rows can be compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tidy_results import (
    SCHEMA,
    ResultFile,
    current_rows,
    merge_results,
    read_results,
    result_files,
    shard_path,
)

from pme_lightning.errors import BadInput


def row(**values: Any) -> dict[str, Any]:
    return {
        "dataset": "d",
        "backbone": "fm",
        "method": "pme",
        "budget": 0.1,
        "seed": 1,
        "test_auc": 0.75,
        "date": "2026-01-01T00:00:00",
        "recipe": "r1",
        "search": "s1",
    } | values


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "new" / "r.csv")
    file.append(row(options='a=[1,2] b="x"', bytes=10**12))
    file.append(row(method="full", budget=1.0, search="", test_auc=math.nan, note="two\nlines, one row"))
    first, second = read_results(file.path).to_dicts()
    assert list(first) == list(SCHEMA)
    assert (first["test_auc"], first["options"], first["bytes"]) == (0.75, 'a=[1,2] b="x"', 10**12)
    assert first["valid_auc"] is None
    assert first["note"] == ""
    assert math.isnan(second["test_auc"])
    assert (second["search"], second["note"]) == ("", "two lines, one row")


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_row_cut_off_by_a_kill_is_neither_read_nor_in_the_way(tmp_path: Path, cut: int) -> None:
    file = ResultFile(tmp_path / "r.csv")
    file.append(row(seed=1))
    whole = len(file.path.read_bytes())
    file.append(row(seed=2))
    content = file.path.read_bytes()
    file.path.write_bytes(content[: min(whole + cut, len(content) - 1)])
    assert read_results(file.path)["seed"].to_list() == [1]
    ResultFile(file.path).append(row(seed=3))
    assert read_results(file.path)["seed"].to_list() == [1, 3]


def test_a_header_cut_off_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("dataset,back")
    assert len(read_results(path)) == 0
    ResultFile(path).append(row())
    assert len(read_results(path)) == 1


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("dataset,auc\nd,0.5\n")
    with pytest.raises(BadInput, match="other columns"):
        read_results(path)
    with pytest.raises(BadInput, match="other columns"):
        ResultFile(path)
    with pytest.raises(ValueError, match="colour"):
        ResultFile(tmp_path / "s.csv").append({"colour": 1})


def test_a_value_of_the_wrong_type_is_said_in_one_line(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "r.csv")
    file.append(row(seed="one"))
    with pytest.raises(BadInput, match=r"r\.csv' cannot be read") as error:
        read_results(file.path)
    assert "\n" not in str(error.value)


def test_shards_are_read_together_and_merge_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    assert shard_path(path, 1, 1) == path
    for shard in (1, 2):
        ResultFile(shard_path(path, shard, 2)).append(row(seed=shard))
    ResultFile(tmp_path / "other.csv").append(row(seed=9))
    before = read_results(path)
    assert sorted(before["seed"]) == [1, 2]
    assert merge_results(path) == 2
    assert result_files(path) == [path]
    assert read_results(path).equals(before)
    ResultFile(path).append(row(seed=3))
    assert sorted(read_results(path)["seed"]) == [1, 2, 3]


def test_a_cell_measured_twice_counts_as_measured_last(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    ResultFile(path).append(row(test_auc=0.9, date="2026-01-02T00:00:00"))
    ResultFile(shard_path(path, 1, 2)).append(row(test_auc=0.8, date="2026-01-01T00:00:00"))
    assert read_results(path)["test_auc"].to_list() == [0.9]


def test_only_the_last_recipe_and_the_last_search_of_a_method_are_current(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "r.csv")
    file.append(row(recipe="old", search="s1", date="2026-01-01", seed=1))
    file.append(row(recipe="new", search="s1", date="2026-01-02", seed=2))
    file.append(row(recipe="new", search="s2", date="2026-01-03", seed=3))
    file.append(row(recipe="new", method="uniform", search="u", date="2026-01-01", seed=4))
    file.append(row(recipe="old", dataset="e", date="2026-01-01", seed=5))
    assert sorted(current_rows(read_results(file.path))["seed"]) == [3, 4, 5]
