"""A bar over rows for the long steps: on stderr, and only where somebody can see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def rows_progress(title: str, total: int | None) -> Iterator[Callable[[float], None]]:
    """Yields a function that takes the number of rows just done.

    Args:
        title: what is being done, as in "encoding".
        total: all rows, or None where counting them would take another pass.
    """
    if not sys.stderr.isatty():
        rows = f" {total:,} rows" if total is not None else ""
        print(f"{title}:{rows} ...", file=sys.stderr)
        yield lambda _: None
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
        task = progress.add_task(title, total=total, speed=0.0)

        def advance(rows: float) -> None:
            speed = progress.tasks[task].finished_speed or progress.tasks[task].speed or 0.0
            progress.update(task, advance=rows, speed=speed)

        yield advance
