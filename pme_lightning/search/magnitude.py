"""The criterion that uses only the magnitude of each value."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pme_lightning.search.axes import known_axes, principal_axes, squares_along
from pme_lightning.search.criterion import Criterion, Scores


class Magnitude(Criterion):
    """Scores each value by its square, without gradients or losses.

    Args:
        axes: ``original``, or ``principal`` as in :class:`Fisher`, of the table that is scored.

    Raises:
        BadInput: unknown axes; or, when scoring, a table that is not finite.
    """

    splits: ClassVar[bool] = True

    def __init__(self, axes: Literal["original", "principal"] = "original") -> None:
        self.axes = known_axes("Magnitude", axes)

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        self.basis = principal_axes(weight, frequencies, self.tokens) if self.axes == "principal" else None
        return Scores(
            table=squares_along(weight, self.basis),
            linear=None if linear is None else linear.square()[:, 0],
            basis=self.basis,
        )
