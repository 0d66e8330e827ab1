"""How much weight decay the values of each field get along each axis, by how large they are expected to become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pme_lightning.embedding.fields import field_ends, fields_of


@dataclass(frozen=True, eq=False)
class FieldDecays:
    r"""Weight decay as the prior that it stands for, field by field and axis by axis.

    Decay by ``λ`` in each step, beside the mean loss of a batch, is what values with a normal prior of variance
    ``1 / (N λ)`` ask for, where ``N`` rows are trained on (the most likely values given rows and prior: ridge
    regression, MacKay, 1992). One ``λ`` for the whole table takes all values for equally large: that of
    :class:`~pme_lightning.optim.LazyAdagrad` itself is for a variance ``σ0²`` of
    :func:`~pme_lightning.optim.prior_variance`, 1/16 where fields are few. A search has found what mean
    square ``σ²`` values of a field have along an axis; but it ended early, and that it found little is no proof that
    nothing is there. So theirs is for the mean of both variances: the optimizer's times ``2 σ0² / (σ0² + σ²)``, twice
    as much where the search expects nothing. Nothing is left to tune. Whoever sets the optimizer's strength otherwise
    sets that of all values, in the same proportion.

    Attributes:
        factors: float32 ``(F, D)``: what the optimizer's decay is multiplied by for a value, by its token's field and
            its axis.
        tokens: ``C`` lists of ``F`` numbers: how many tokens of each size class are of each field. Within a class
            tokens stand field by field.
    """

    factors: Tensor
    tokens: list[list[int]]

    @classmethod
    def of_spectrum(
        cls,
        spectrum: Tensor,
        classes: Sequence[tuple[int, int]],
        order: Tensor,
        field_tokens: Sequence[int],
        prior: float,
    ) -> FieldDecays:
        """Finds them for a table of tokens that are numbered by size.

        Args:
            spectrum: ``(F, D)``: the mean squares that values are expected to have.
            classes: The size and the number of tokens of each size class.
            order: ``(V,)``: the token at each position, by falling size and then by number.
            field_tokens: Number of tokens of each field.
            prior: ``σ0²``, the variance that the optimizer's decay is for.
        """
        fields = fields_of(order, field_ends(field_tokens, order.device))
        own = [part.bincount(minlength=len(field_tokens)).cpu() for part in fields.split([n for _, n in classes])]
        factors = 2 / (1 + spectrum.to("cpu", torch.float64) / prior)
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
