"""What models are measured by: how it is called, and which way is better. It imports nothing: pages use it, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A measure of a model.

    Attributes:
        key: Its name in summaries and, after the split (``valid_auc``), in logs.
        label: Its name for people.
        best: Returns the best of several values, as ``max`` and ``min`` do.
    """

    key: str
    label: str
    best: Callable[..., Any]

    def beats(self, value: float, other: float) -> bool:
        """Whether one value is better than another."""
        return value != other and self.best(value, other) == value


AUC = Measure("auc", "AUC", max)
LOGLOSS = Measure("logloss", "logloss", min)
MEASURES = (AUC, LOGLOSS)
