"""The criterion that looks at nothing but the size of each value."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pme_lightning.search.axes import known_axes, principal_axes, squares_along
from pme_lightning.search.criterion import Criterion, Scores


class Magnitude(Criterion):
    """The square of each value: no gradients, no loss.

    Args:
        axes: ``original``, or ``principal`` as for :class:`Fisher`, of the table that is scored.

    Raises:
        BadInput: other axes; or, when scoring, a table that is not finite.
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
