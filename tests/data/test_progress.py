"""Lines where nobody watches a bar."""

from __future__ import annotations

import pytest

from pme_lightning.data import progress
from pme_lightning.data.progress import rows_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then(capsys: pytest.CaptureFixture, clock: list[float]) -> None:
    with rows_progress("encoding 'ads'", 100_000) as told:
        for _ in range(25):
            clock[0] += 1
            told.advance(1000)
    assert capsys.readouterr().err.splitlines() == [
        "encoding 'ads': 100,000 rows ...",
        "encoding 'ads': 10,000 of 100,000 rows, 1,000 rows/s, 1 min 30 s left",
        "encoding 'ads': 20,000 of 100,000 rows, 1,000 rows/s, 1 min 20 s left",
    ]


def test_rows_done_before_do_not_count_for_the_speed(capsys: pytest.CaptureFixture, clock: list[float]) -> None:
    with rows_progress("encoding", 10_000_000) as told:
        told.start_at(2_000_000)
        clock[0] += 10
        told.advance(10_000)
    with rows_progress("reading", None) as told:
        told.start_at(0)
        clock[0] += 12
        told.advance(24)
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 10,000,000 rows ...",
        "encoding: going on after 2,000,000 rows",
        "encoding: 2,010,000 of 10,000,000 rows, 1,000 rows/s, 2 h 13 min left",
        "reading: ...",
        "reading: 24 rows, 2 rows/s",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with rows_progress("encoding", 100) as told:
        told.start_at(20)
        told.advance(30)
        assert told._progress.tasks[0].completed == 50
        assert told._progress.tasks[0].total == 100
