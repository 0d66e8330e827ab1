"""How much weight decay the values of each field get along each axis, by how large they are expected to become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Factors lie between the inverse of it and itself: what is expected of a field may be next to nothing.
_MOST = 16.0
_LEAST_SQUARE = 1e-9


@dataclass(frozen=True, eq=False)
class FieldDecays:
    r"""Weight decay as the prior that it stands for, field by field and axis by axis.

    Decay by ``λ`` is what values with a normal prior of variance ``1 / λ`` (per row) ask for. One ``λ`` for the whole
    table takes all values for equally large; where they are expected to have the mean square ``σ²`` it is too strong
    for the larger ones, and leaves the smaller ones, of which many are noise, too much. So decays are taken times
    ``σ̄² / σ²``. ``σ̄²`` is a mean of ``σ²`` over the values that tokens own, weighted by ``σ²`` itself: the strength
    that a recipe was tuned to stays what it is where most of what the table says is, in the sum of its squares.

    Attributes:
        factors: float32 ``(F, D)``: what the decay of a value is multiplied by, by its token's field and its axis.
        tokens: ``C`` lists of ``F`` numbers: how many tokens of each size class are of each field. Within a class
            tokens stand field by field.
    """

    factors: Tensor
    tokens: list[list[int]]

    @classmethod
    def of_spectrum(
        cls, spectrum: Tensor, classes: Sequence[tuple[int, int]], order: Tensor, field_tokens: Sequence[int]
    ) -> FieldDecays:
        """Finds them for a table of tokens that are numbered by size.

        Args:
            spectrum: ``(F, D)``: the mean squares that values are expected to have.
            classes: The size and the number of tokens of each size class.
            order: ``(V,)``: the token at each position, by falling size and then by number.
            field_tokens: Number of tokens of each field.
        """
        fields = torch.bucketize(order, torch.tensor(field_tokens, device=order.device).cumsum(0), right=True)
        own = [part.bincount(minlength=len(field_tokens)).cpu() for part in fields.split([n for _, n in classes])]
        squares = spectrum.to("cpu", torch.float64).clamp(min=_LEAST_SQUARE)
        # Expected sums of squares; without any value there is nothing to be of the mean strength.
        sums = torch.zeros_like(squares)
        for (size, _), counts in zip(classes, own, strict=True):
            sums[:, :size] += counts.unsqueeze(1)
        sums *= squares
        mean = (sums * squares).sum() / sums.sum() if sums.any() else 1.0
        factors = (mean / squares).clamp(1 / _MOST, _MOST)
        return cls(factors.float(), [counts.tolist() for counts in own])

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> FieldDecays:
        """Takes what :meth:`plain` gave."""
        return cls(torch.tensor(plain["factors"], dtype=torch.float32), [list(own) for own in plain["tokens"]])

    def of_rows(self, size: int, linear: bool) -> Tensor:
        """Returns the factors ``(F, width)`` of rows of a size, behind a 1 for a first-order weight."""
        factors = self.factors[:, :size]
        return torch.cat([factors.new_ones(len(factors), 1), factors], 1) if linear else factors

    def plain(self) -> dict[str, Any]:
        """Returns the same in numbers and lists, as checkpoints hold it."""
        return {"factors": self.factors.tolist(), "tokens": self.tokens}
