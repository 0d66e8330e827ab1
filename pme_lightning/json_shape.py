"""Checks that data read from JSON has the shape that the program reads it by."""

from __future__ import annotations

from typing import Any


class Optional:
    """A key that may be missing, or a value that may be null.

    Args:
        shape: What it is where it is there.
    """

    def __init__(self, shape: Any) -> None:
        self.shape = shape


def misfit(value: Any, shape: Any, where: str = "") -> str | None:
    """Returns what does not fit, in a few words; ``None`` where all does.

    Args:
        value: As ``json.loads`` gave it.
        shape: A type (``float`` takes whole numbers too, ``object`` anything); ``[shape]`` for a list of any length;
            ``(shape, shape)`` for a list of so many; ``{key: shape}`` for an object, which may hold more;
            ``{str: shape}`` for one with any keys; :class:`Optional`.
        where: The place of ``value``, for the words.

    >>> misfit({"a": [1, "x"]}, {"a": [int]})
    "a[1] is 'x', not a whole number"
    >>> misfit({}, {"a": int, "b": Optional(int)})
    'a is missing'
    """
    if isinstance(shape, Optional):
        return None if value is None else misfit(value, shape.shape, where)
    if isinstance(shape, type):
        fits = isinstance(value, (int, float) if shape is float else shape)
        if fits and not (isinstance(value, bool) and shape in (int, float)):
            return None
        return f"{where or 'it'} is {_shown(value)}, not {_NAMES.get(shape, shape.__name__)}"
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where or 'it'} is {_shown(value)}, not an object"
        items = [(key, shape[str]) for key in value] if str in shape else list(shape.items())
        for key, inner in items:
            place = f"{where}.{key}" if where else str(key)
            if key not in value and not isinstance(inner, Optional):
                return f"{place} is missing"
            found = misfit(value.get(key), inner, place)
            if found:
                return found
        return None
    if not isinstance(value, list):
        return f"{where or 'it'} is {_shown(value)}, not a list"
    if isinstance(shape, tuple) and len(value) != len(shape):
        return f"{where or 'it'} has {len(value)} entries, not {len(shape)}"
    shapes = shape if isinstance(shape, tuple) else [shape[0]] * len(value)
    for i, (each, inner) in enumerate(zip(value, shapes, strict=True)):
        found = misfit(each, inner, f"{where}[{i}]")
        if found:
            return found
    return None


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
