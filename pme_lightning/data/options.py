"""Checks of option values that come from a command line or a file, where anything may stand."""

from __future__ import annotations

from typing import Any

from pme_lightning.errors import BadInput


def check_whole_number(key: str, value: Any, least: int) -> None:
    """Raises BadInput where ``data.<key>`` is no whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        shown = "null" if value is None else repr(value)
        raise BadInput(f"data.{key} must be a whole number of at least {least}, not {shown}")
    if value < least:
        raise BadInput(f"data.{key} must be at least {least}, not {value}")
