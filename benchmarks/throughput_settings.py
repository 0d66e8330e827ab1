"""What the sections of throughput.py share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from zipf_clicks import ZipfClicks

FRACTION = 0.1
WIDE, NARROW = [400, 400, 400], [64, 64]


@dataclass(frozen=True)
class Settings:
    """What all tables share.

    Attributes:
        steps: Training steps per measurement.
        batch_size: Rows per batch.
        tokens: Table sizes.
        quick: Whether to leave out the largest cases.
        device: ``"cpu"`` or ``"gpu"``, where all contestants train.
        precision: Precision of ours, of the network alone and of the plain loop.
        peers: Whether to measure peers if they are installed.
        only: Only training cases whose name starts with this; all of them by default.
    """

    steps: int
    batch_size: int
    tokens: list[int]
    quick: bool
    device: str
    precision: str
    peers: bool
    only: str = ""

    def data(self, tokens: int) -> ZipfClicks:
        """Draws the rows."""
        return ZipfClicks(tokens, train_rows=(self.steps + 2) * self.batch_size, batch_size=self.batch_size)

    @property
    def trainer(self) -> dict[str, Any]:
        """Options of ours for Lightning's Trainer."""
        return {"accelerator": self.device, "precision": self.precision}


class Table(Protocol):
    """See ``throughput.Table``."""

    rounds: int

    def race(
        self, section: str, case: str, contestants: dict[str, Callable[[], float]], unit: str, base: str
    ) -> None: ...

    def add(self, section: str, case: str, contestant: str, values: list[float], unit: str) -> None: ...


def timed_in_ms(racers: dict[str, Callable[[], float]]) -> dict[str, Callable[[], float]]:
    """Turns functions that return seconds into functions that return milliseconds."""
    return {name: lambda run=run: run() * 1e3 for name, run in racers.items()}
