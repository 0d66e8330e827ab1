"""Ranges of rows in pieces, so that no intermediate result is as large as a table."""

from __future__ import annotations

from collections.abc import Iterator

_ROWS = 1 << 15
# Where intermediate results are in double precision, and there are some ten of them.
FEW_ROWS = 1 << 13


def row_chunks(start: int, stop: int, rows: int = _ROWS) -> Iterator[slice]:
    """Yields the rows from ``start`` up to ``stop`` in pieces of ``rows``, the last one shorter."""
    return (slice(first, min(first + rows, stop)) for first in range(start, stop, rows))
