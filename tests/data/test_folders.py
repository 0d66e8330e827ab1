"""Folders that several processes want to write, and that interrupted ones have left."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pme_lightning.data.folders import resumable_folder, unfinished


def is_whole(folder: Path) -> bool:
    return (folder / "whole").exists()


def test_a_second_one_waits_and_finds_it_done(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    final = tmp_path / "ads-1"
    begun, found = threading.Event(), []

    def second() -> None:
        begun.wait()
        with resumable_folder(final, is_whole) as partial:
            found.append(partial)

    thread = threading.Thread(target=second)
    thread.start()
    with resumable_folder(final, is_whole) as partial:
        assert partial is not None
        begun.set()
        thread.join(timeout=0.5)
        assert thread.is_alive()
        (partial / "whole").touch()
    thread.join(timeout=60)
    assert found == [None]
    assert "another process is writing 'ads-1': waiting for it" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["ads-1"]


@pytest.mark.parametrize(("error", "stays"), [(KeyboardInterrupt, True), (ValueError, False)])
def test_an_interruption_leaves_what_is_done_and_an_error_does_not(
    tmp_path: Path, error: type[BaseException], stays: bool
) -> None:
    final = tmp_path / "ads-1"

    def stop_half_way() -> None:
        with resumable_folder(final, is_whole) as partial:
            assert partial is not None
            (partial / "half").touch()
            raise error

    with pytest.raises(error):
        stop_half_way()
    assert not final.exists()
    assert (unfinished(final) / "half").exists() == stays
    with resumable_folder(final, is_whole) as partial:
        assert partial is not None
        assert (partial / "half").exists() == stays
        (partial / "whole").touch()
    assert is_whole(final)


def test_a_damaged_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "ads-1").mkdir()
    (tmp_path / "ads-1" / "rest").touch()
    with resumable_folder(tmp_path / "ads-1", is_whole) as partial:
        assert partial is not None
        (partial / "whole").touch()
    assert [one.name for one in (tmp_path / "ads-1").iterdir()] == ["whole"]
