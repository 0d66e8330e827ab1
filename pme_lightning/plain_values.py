"""Values that a checkpoint can hold: it must load without running code from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pme_lightning.errors import BadInput


def with_python_numbers(value: Any) -> Any:
    """Returns the same value with Python's numbers in place of numpy's, which a checkpoint does not hold."""
    if isinstance(value, Mapping):
        return {key: with_python_numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(with_python_numbers, value))
    return value.item() if isinstance(value, np.generic) else value


def check_plain(name: str, value: Any) -> None:
    """Raises BadInput where a value, an argument of this name, is or holds anything but plain data."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_plain(f"{name}.{key}", each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_plain(name, each)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise BadInput(
            f"{name} is {value!r}: a checkpoint holds numbers, texts and lists of such; give the backbone one of "
            "these, and let it find the object by that"
        )
