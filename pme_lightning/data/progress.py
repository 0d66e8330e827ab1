"""How far the long steps over rows have come, on stderr: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

# Between two lines where there is no terminal.
_LINE_SECONDS = 10.0


class RowsProgress(Protocol):
    """What is told of rows that are done."""

    def advance(self, rows: float) -> None:
        """Some more rows are done."""

    def start_at(self, rows: int) -> None:
        """Rows that an interrupted process has done before."""


@contextmanager
def rows_progress(title: str, total: int | None) -> Iterator[RowsProgress]:
    """Shows rows, rows a second and the time left while the block runs.

    Args:
        title: what is being done, as in "encoding".
        total: all rows, or None where counting them would take another pass.
    """
    if not sys.stderr.isatty():
        yield _Lines(title, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} rows, {task.fields[speed]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, title, total)


class _Bar:
    def __init__(self, progress, title: str, total: int | None) -> None:  # type: ignore[no-untyped-def]
        self._progress = progress
        self._task = progress.add_task(title, total=total, speed=0.0)

    def advance(self, rows: float) -> None:
        task = self._progress.tasks[self._task]
        self._progress.update(self._task, advance=rows, speed=task.finished_speed or task.speed or 0.0)

    def start_at(self, rows: int) -> None:
        self._progress.reset(self._task, completed=rows, speed=0.0)


class _Lines:
    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total
        self._done = self._before = 0.0
        self._started = self._said = time.monotonic()
        self._say(f" {total:,} rows ..." if total is not None else " ...")

    def advance(self, rows: float) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._said < _LINE_SECONDS:
            return
        self._said = now
        speed = (self._done - self._before) / (now - self._started)
        of = left = ""
        if self._total is not None:
            of = f" of {self._total:,}"
            left = f", {_duration((self._total - self._done) / speed)} left" if speed else ""
        self._say(f" {self._done:,.0f}{of} rows, {speed:,.0f} rows/s{left}")

    def start_at(self, rows: int) -> None:
        if rows:
            self._done = self._before = float(rows)
            self._say(f" going on after {rows:,} rows")

    def _say(self, text: str) -> None:
        print(f"{self._title}:{text}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
