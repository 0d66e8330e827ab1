"""The reader of offline runs that the tests of this folder look through, before its writer is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("missing", [1, 8, 100, 1_000, 5_000, 32_768])
def test_a_file_that_is_being_written_holds_what_came_before(
    pme_folder: Path, pme_run: Any, read_part: Callable[[Path], Any], tmp_path: Path, missing: int
) -> None:
    (whole,) = pme_folder.glob("wandb/offline-run-*/run-*.wandb")
    content = whole.read_bytes()
    assert len(content) > missing
    cut = tmp_path / whole.name
    cut.write_bytes(content[:-missing])
    run = read_part(cut)
    assert run.exit_code is None or missing < 100
    assert run.history == pme_run.history[: len(run.history)]
    # Pages of a file may come to light before their bytes do.
    cut.write_bytes(content[:-missing] + bytes(missing))
    assert read_part(cut).history == run.history
