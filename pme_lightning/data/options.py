"""What options of data may be: names of splits, and numbers that come from a command line, where anything may stand."""

from __future__ import annotations

from typing import Any

from pme_lightning.errors import BadInput

SPLITS = ("train", "valid", "test")


def check_whole_number(key: str, value: Any, least: int) -> None:
    """Raises BadInput where ``data.<key>`` is no whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        shown = "null" if value is None else repr(value)
        raise BadInput(f"data.{key} must be a whole number of at least {least}, not {shown}")
    if value < least:
        raise BadInput(f"data.{key} must be at least {least}, not {value}")
