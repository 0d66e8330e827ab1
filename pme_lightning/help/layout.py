"""Lays text out to the width of the terminal."""

from __future__ import annotations

import shutil
import textwrap


def text_width() -> int:
    """Returns how wide text may be: as the terminal, but neither very narrow nor very wide."""
    return max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))


def two_columns(entries: dict[str, str]) -> list[str]:
    """Returns lines of names and what they mean."""
    column = max(len(key) for key in entries) + 4
    lines = []
    for key, text in entries.items():
        first = f"  {key}".ljust(column)
        lines += textwrap.wrap(
            text, text_width(), initial_indent=first, subsequent_indent=" " * column, break_on_hyphens=False
        ) or [first.rstrip()]
    return lines
