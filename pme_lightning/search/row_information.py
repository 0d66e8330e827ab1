"""What rows tell about the values of their tokens, in the full-size model or in a pruned one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.search.in_turn import InTurn
from pme_lightning.search.popularity_bands import band_of, over_the_field
from pme_lightning.search.use import use_of_sums

# Squares of gradients this small compared with the largest are zeros with rounding errors.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class RowInformation:
    """What one row tells about the values of its tokens, field by field.

    Popular and rare tokens of a field differ: another row tells little about a token that is nearly always clicked. So
    the ratio of what rows of each popularity band tell to what rows of the whole field tell is kept, too.

    Attributes:
        table: float64 ``(F, D)``: what a row tells about each embedding value beyond those before it
            (:class:`~pme_lightning.search.in_turn.InTurn`).
        linear: float64 ``(F,)``: mean squared gradient of a row's loss at the first-order weights; None without them.
        shared: float64 ``(F, D)``: squared correlation, over rows, of the gradients at an embedding value, beyond those
            before it, and at the first-order weight; None without them.
        bands: float64 ``(1, F, 32)``, with first-order weights ``(2, F, 32)``: what a row of a token in each band
            tells, relative to a row of the field; None: the same.
        use: float64 ``(F, D)``: in a pruned model, the share that kept values save of what they are expected to save,
            at most 1; NaN if none is kept. None: 1.
        in_turn: what the table was computed from; None if it combines several measurements.
    """

    table: Tensor
    linear: Tensor | None = None
    shared: Tensor | None = None
    bands: Tensor | None = None
    use: Tensor | None = None
    in_turn: InTurn | None = None

    @classmethod
    def of_sums(
        cls,
        rows: Tensor,
        products: Tensor,
        linear_squares: Tensor | None = None,
        linear_products: Tensor | None = None,
        bands: Tensor | None = None,
        uses: Tensor | None = None,
    ) -> RowInformation:
        """Computes it from sums over rows.

        Args:
            rows: number of rows.
            products: ``(F, D, D)``: sums of the products of the gradients at two embedding values.
            linear_squares: ``(F,)``: sums of the squared gradients at first-order weights.
            linear_products: ``(F, D)``: sums of the products of those at embedding values and first-order weights.
            bands: sum of :func:`~pme_lightning.search.popularity_bands.band_sums` over batches; None if all rows of a
                field should count the same.
            uses: sum of :func:`~pme_lightning.search.use.use_sums` over batches; None for a model that is not pruned.
        """
        rows = rows.clamp(min=1)
        in_turn = InTurn.of(products / rows)
        table = torch.where(in_turn.told > _ROUNDING * in_turn.told.max(), in_turn.told, 0)
        use = None if uses is None else use_of_sums(rows, products.diagonal(dim1=1, dim2=2), uses)
        ratios = None if bands is None else over_the_field(bands)
        if linear_squares is None or linear_products is None:
            return cls(table, bands=ratios, use=use, in_turn=in_turn)
        linear = linear_squares / rows
        both = table * linear.unsqueeze(1)
        beyond = in_turn.gradients(slice(None), (linear_products / rows).unsqueeze(1)).squeeze(1)
        shared = torch.where(both > 0, beyond.square() / both.clamp(min=1e-300), 0).clamp(max=1)
        return cls(table, linear, shared, ratios, use, in_turn)

    def of_tokens(self, field: int, frequencies: Tensor, linear: bool = False) -> Tensor:
        """Returns what one row tells about the values of tokens of a field, float64 ``(n, D)``, or ``(n, 1)``.

        Args:
            field: The field.
            frequencies: ``(n,)``: training rows of each token.
            linear: Whether to return what it tells about the first-order weights.
        """
        told = self.table[field]
        if linear:
            assert self.linear is not None
            told = self.linear[field, None]
        if self.bands is None:
            return told.expand(len(frequencies), -1)
        return self.bands[int(linear), field, band_of(frequencies)].unsqueeze(1) * told

    def halfway(self, other: RowInformation) -> RowInformation:
        """Returns the geometric mean of this and the information in a pruned model, with the latter's correlations.

        What the pruned model tells about values is multiplied by their use. The use of values that it does not keep is
        unknown: they keep the one from when some of them were last kept.
        """
        linear = None if self.linear is None or other.linear is None else (self.linear * other.linear).sqrt()
        bands = None if self.bands is None or other.bands is None else (self.bands * other.bands).sqrt()
        before = torch.ones_like(self.table) if self.use is None else self.use
        use = before if other.use is None else torch.where(other.use.isnan(), before, other.use)
        return RowInformation((self.table * other.table * use).sqrt(), linear, other.shared, bands, use)
