"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
import torch

from pme_lightning import report
from pme_lightning.written_whole import PARTIAL, written_whole


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "sizes.txt"
    file.write_text("before")
    with written_whole(file) as partial:
        partial.write_text("after")
        assert partial.parent == tmp_path, "a move between file systems is no move"
        assert partial.name.startswith(".")
        assert partial.name.endswith(PARTIAL)
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "sizes.txt"
    file.write_text("before")

    def write() -> None:
        with written_whole(file) as partial:
            partial.write_text("half of")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_predictions_say_that_the_disk_is_full(tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    report.write_predictions(torch.tensor([0.25, 0.5]), file)
    assert pl.read_parquet(file)["probability"].to_list() == [0.25, 0.5]
    (tmp_path / f".{file.name}.{os.getpid()}{PARTIAL}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        report.write_predictions(torch.tensor([0.75]), file)
    assert pl.read_parquet(file)["probability"].to_list() == [0.25, 0.5]
