"""Ranges of rows in chunks, so that no intermediate result is as large as a table."""

from __future__ import annotations

from collections.abc import Iterator

_ROWS = 1 << 15
# For code with some ten intermediate results in double precision.
FEW_ROWS = 1 << 13


def row_chunks(start: int, stop: int, rows: int = _ROWS) -> Iterator[slice]:
    """Yields the rows from ``start`` up to ``stop`` in chunks of ``rows``; the last one may be shorter."""
    return (slice(first, min(first + rows, stop)) for first in range(start, stop, rows))
