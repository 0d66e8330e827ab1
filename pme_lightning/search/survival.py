"""Scores by survival: how long values stay above a threshold that is learned along with them."""

from __future__ import annotations

import torch
from torch import Tensor

from pme_lightning.embedding import SoftThreshold
from pme_lightning.embedding.row_chunks import row_chunks
from pme_lightning.search.criterion import Scores, TableCriterion

MOST_CHECKS = 255  # what one byte per value can hold


class Survival(TableCriterion):
    """How long each value stayed above its learned threshold, and its final margin.

    The search observes the table a number of times (:meth:`observe`). The score of a value is the number of the last
    observation at which it was above its threshold, plus its final margin ``|w| − t``, squashed into (0, 1), which
    orders values with the same number. So the best ``n`` values, for any ``n``, are those that were left when the
    thresholds had pruned the table to ``n``: one search serves all budgets. If the thresholds never pruned that far,
    only the margin decides.

    Attributes:
        threshold: The thresholds, set by the search.
    """

    threshold: SoftThreshold | None

    def __init__(self) -> None:
        super().__init__()
        self.threshold = None

    @torch.no_grad()
    def observe(self, look: int, weight: Tensor, linear: Tensor | None) -> int:
        """Records which values are above their thresholds.

        Args:
            look: the number of this observation, from 1 to 255, ascending.
            weight: ``(V, D)`` the table.
            linear: ``(V, 1)`` the first-order weights, or None.

        Returns:
            How many values survive, first-order weights included.
        """
        if not 1 <= look <= MOST_CHECKS:
            raise ValueError(f"look {look} is outside 1 ... {MOST_CHECKS}")
        if self._table is None:
            self._table = torch.zeros_like(weight, dtype=torch.uint8)
            self._linear = None if linear is None else torch.zeros_like(linear, dtype=torch.uint8)
        alive = 0
        for rows in row_chunks(0, len(weight)):
            table, column = self._margins(rows, weight, linear)
            alive += int((table > 0).sum())
            self._table[rows].masked_fill_(table > 0, look)
            if column is not None and self._linear is not None:
                alive += int((column > 0).sum())
                self._linear[rows].masked_fill_(column > 0, look)
        return alive

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        if self._table is None:
            raise RuntimeError("Survival was asked for scores before it observed anything")
        scores, linear_scores = torch.empty_like(weight), None if linear is None else torch.empty_like(linear)
        for rows in row_chunks(0, len(weight)):
            table, column = self._margins(rows, weight, linear)
            scores[rows] = self._table[rows] + _squash(table)
            if column is not None and linear_scores is not None and self._linear is not None:
                linear_scores[rows] = self._linear[rows] + _squash(column)
        return Scores(scores, None if linear_scores is None else linear_scores[:, 0])

    def _margins(self, rows: slice, weight: Tensor, linear: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns by how much some rows of a table exceed their thresholds."""
        if self.threshold is None:
            raise RuntimeError("Survival needs the thresholds that the search learns: set threshold first")
        ids = torch.arange(rows.start, rows.stop, device=weight.device)
        return self.threshold.margins(ids, weight[rows], None if linear is None else linear[rows])


def _squash(margin: Tensor) -> Tensor:
    """Maps margins to (0, 1), in the same order."""
    return (1 + margin / (1 + margin.abs())) / 2
