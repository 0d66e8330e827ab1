"""Checks of constructor arguments: each raises a one-line ``ValueError`` that names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def positive(name: str, value: int) -> int:
    """Returns ``value`` if it is an integer of at least 1."""
    if not _is_int(value) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def layer_widths(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """Returns ``value`` as a tuple if it is a (possibly empty) sequence of integers of at least 1."""
    if not isinstance(value, Sequence) or not all(_is_int(width) and width >= 1 for width in value):
        raise ValueError(f"{name} must be a list of integers of at least 1, such as [400, 400], got {value!r}")
    return tuple(value)


def probability(name: str, value: float) -> float:
    """Returns ``value`` if it is a number in [0, 1)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")
    return float(value)


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """Returns ``value`` if it is one of the ``choices``."""
    names = list(choices)
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
