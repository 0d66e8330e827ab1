"""What rows tell about the values of their tokens: on the full-size model, or on one that is pruned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.search.in_turn import InTurn

# Squares of gradients that are this small beside the largest are what rounding leaves of zeros.
_ROUNDING = 1e-10
# Tokens of a field with 1, 2 to 3, 4 to 7, ... rows of the training split form a band.
BANDS = 32
# So many rows of its field speak for a band, beside its own.
_PRIOR_ROWS = 64
# What is left of a value's information where values like it do not help: rounds come back from it.
_LEAST_USE = 0.02
_LEAST_ENERGY = 1e-5


def _band(frequencies: Tensor) -> Tensor:
    """Returns the band of each frequency, the whole part of its binary logarithm; that of a token never seen is 0."""
    return (torch.frexp(frequencies.double().clamp(min=1)).exponent.long() - 1).clamp(max=BANDS - 1)


def band_sums(frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> Tensor:
    """Sums over the rows of a batch, for each field and band of its tokens' popularity.

    Args:
        frequencies: ``(B, F)``: how many rows of the training split have the token.
        row_grad: ``(B, F, D)``: gradients of each row's loss at its embeddings.
        linear_grad: ``(B, F)``: the same at its first-order weights; None without them.

    Returns:
        float64 ``(2, F, 32)``, with first-order weights ``(3, F, 32)``: how many rows, and of how large gradients: the
        squares added up over the axes, and those at first-order weights.
    """
    fields = frequencies.shape[1]
    place = (_band(frequencies) + torch.arange(fields, device=frequencies.device) * BANDS).reshape(-1)
    # The norm of a row makes no copy of the gradients, which are as large as a batch of embeddings.
    squares = torch.linalg.vector_norm(row_grad, dim=-1).double().square_()
    weights = [torch.ones_like(place, dtype=torch.float64), squares.reshape(-1)]
    if linear_grad is not None:
        weights.append(linear_grad.double().square().reshape(-1))
    sums = [torch.zeros(fields * BANDS, dtype=torch.float64, device=place.device) for _ in weights]
    return torch.stack([own.index_add_(0, place, each) for own, each in zip(sums, weights, strict=True)]).view(
        len(weights), fields, BANDS
    )


def use_sums(values: Tensor, kept: Tensor, gradients: Tensor) -> Tensor:
    """Sums over the rows of a batch, for each field and axis: how values go with the gradients of the pruned model.

    Args:
        values: ``(B, F, D)``: the values of each row's tokens, pruned or not.
        kept: ``(B, F, D)`` bool: which of them the pruned model reads.
        gradients: ``(B, F, D)``: gradients of each row's loss at them, where the model is pruned.

    Returns:
        float64 ``(9, F, D)``, of what :func:`_use` takes. Of all rows: the values. Of those whose value is kept: how
        many they are, values ``w``, gradients ``g``, and ``w²``, ``gw``, ``g²``, ``g²w``, ``g²w²``.
    """
    w, m, g = values, kept.to(values), gradients * kept
    own, both = w * m, g * w
    summands = (w, m, own, g, own * w, both, g * g, both * g, both * both)
    return torch.stack([each.sum(0, dtype=torch.float64) for each in summands])


def _use(rows: Tensor, squares: Tensor, sums: Tensor) -> Tensor:
    """Returns what share of what kept values are expected to save they do save; NaN where none is kept.

    To leave a value out changes the loss by ``-g w + h w² / 2``, to second order, and by ``h w² / 2`` where the model
    is as it was when the value was learned. What all tokens of a field have in common others can say: ``w`` is the
    distance from the field's mean. The share is drawn to 1, with a standard deviation of 1, by how little rows say.

    Args:
        rows: How many there are.
        squares: ``(F, D)``: the squares of all gradients, added up.
        sums: What :func:`use_sums` gave, added up.
    """
    w, m, mw, mg, mww, mgw, mgg, mggw, mggww = sums
    mean = w / rows
    energy = (mww - 2 * mean * mw + mean.square() * m).clamp(min=0)
    # Where all values are the mean, rounding leaves a little.
    energy = torch.where(energy > _LEAST_ENERGY * mww, energy, 0)
    expected = squares / rows * energy / 2
    known = expected > 0
    expected = torch.where(known, expected, 1)
    share = 1 - (mgw - mean * mg) / expected
    noise = (mggww - 2 * mean * mggw + mean.square() * mgg).clamp(min=0) / expected.square()
    return torch.where(known, ((share + noise) / (1 + noise)).clamp(_LEAST_USE, 1), torch.nan)


@dataclass(frozen=True)
class RowInformation:
    """What one row tells about the values of its tokens, field by field.

    Popular and rare tokens of a field differ: of a token that is nearly always clicked another row tells little. How
    much more or less the rows of a band of popularity tell than those of the whole field is known beside it.

    Attributes:
        table: float64 ``(F, D)``: what a row tells about each embedding value beyond those before it
            (:class:`~pme_lightning.search.in_turn.InTurn`).
        linear: float64 ``(F,)``: mean squared gradient of a row's loss at the first-order weights; None without them.
        shared: float64 ``(F, D)``: squared correlation, over rows, of the gradients at an embedding value, beyond those
            before it, and at the first-order weight; None without them.
        bands: float64 ``(1, F, 32)``, with first-order weights ``(2, F, 32)``: what a row of a token of each band tells
            over what one of the field does; None: the same.
        use: float64 ``(F, D)``: on a pruned model, the share that kept values save of what they are expected to, 1 at
            most; NaN where none is kept. None: 1.
        in_turn: what the table was read off; None of what several measurements told together.
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
        """Makes it of sums over rows.

        Args:
            rows: how many.
            products: ``(F, D, D)`` of the products of the gradients at two embedding values.
            linear_squares: ``(F,)`` of the squared gradients at first-order weights.
            linear_products: ``(F, D)`` of the products of those at embedding values and first-order weights.
            bands: what :func:`band_sums` gave, added up; None if all rows of a field are to count the same.
            uses: what :func:`use_sums` gave, added up; None of a model that is not pruned.
        """
        rows = rows.clamp(min=1)
        in_turn = InTurn.of(products / rows)
        table = torch.where(in_turn.told > _ROUNDING * in_turn.told.max(), in_turn.told, 0)
        use = None if uses is None else _use(rows, products.diagonal(dim1=1, dim2=2), uses)
        if linear_squares is None or linear_products is None:
            return cls(table, bands=_over_the_field(bands), use=use, in_turn=in_turn)
        linear = linear_squares / rows
        both = table * linear.unsqueeze(1)
        beyond = in_turn.gradients(slice(None), (linear_products / rows).unsqueeze(1)).squeeze(1)
        shared = torch.where(both > 0, beyond.square() / both.clamp(min=1e-300), 0).clamp(max=1)
        return cls(table, linear, shared, _over_the_field(bands), use, in_turn)

    def of_tokens(self, field: int, frequencies: Tensor, linear: bool = False) -> Tensor:
        """Returns what one row tells about the values of tokens of a field, float64 ``(n, D)``, or ``(n, 1)``.

        Args:
            field: Which.
            frequencies: ``(n,)``: rows of the training split of each token.
            linear: About the first-order weights.
        """
        told = self.table[field]
        if linear:
            assert self.linear is not None
            told = self.linear[field, None]
        if self.bands is None:
            return told.expand(len(frequencies), -1)
        return self.bands[int(linear), field, _band(frequencies)].unsqueeze(1) * told

    def halfway(self, other: RowInformation) -> RowInformation:
        """Returns the geometric mean of this and that of a pruned model, with the correlations of the other.

        What the other tells of values counts by the share of it that is of use. Of values that it does not keep that
        is not known: it is what it was when some were kept last.
        """
        linear = None if self.linear is None or other.linear is None else (self.linear * other.linear).sqrt()
        bands = None if self.bands is None or other.bands is None else (self.bands * other.bands).sqrt()
        before = torch.ones_like(self.table) if self.use is None else self.use
        use = before if other.use is None else torch.where(other.use.isnan(), before, other.use)
        return RowInformation((self.table * other.table * use).sqrt(), linear, other.shared, bands, use)


def _over_the_field(bands: Tensor | None) -> Tensor | None:
    """Returns the mean square of each band over that of its field; the fewer rows a band has, the nearer to 1."""
    if bands is None:
        return None
    rows, squares = bands[0], bands[1:]
    field = squares.sum(-1, keepdim=True) / rows.sum(-1, keepdim=True).clamp(min=1)
    found = (squares + _PRIOR_ROWS * field) / ((rows + _PRIOR_ROWS) * torch.where(field > 0, field, 1))
    return torch.where(field > 0, found, 1)
