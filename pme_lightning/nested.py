"""Nested dictionaries, such as configurations and summaries, as flat ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(node: Mapping[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value with the keys that lead to it, joined; an empty dictionary is a value.

    >>> dict(leaves({"a": 1, "b": {"c": 2, "d": {}}}))
    {'a': 1, 'b.c': 2, 'b.d': {}}
    """
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, separator, f"{prefix}{key}{separator}")
        else:
            yield f"{prefix}{key}", value
