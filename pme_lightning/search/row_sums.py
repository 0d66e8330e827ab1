"""Sums over the rows of a scoring window: their gradients, and the values that they looked up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pme_lightning.search.popularity_bands import BANDS, band_sums
from pme_lightning.search.row_information import RowInformation

# The sums that have a row for each token.
PER_TOKEN = ("gradient", "linear_gradient", "met", "stood", "linear_stood")


@dataclass
class RowSums:
    """Sums over the rows of a window; they depend neither on the batch size nor on the number of processes.

    Attributes:
        rows: float64 ``(1,)``: number of rows.
        gradient: ``(V, D)``: gradients of rows at the values that they looked up.
        information: float64 ``(F, D, D)``: products of the gradients at two values of a field.
        bands: results of :func:`~pme_lightning.search.popularity_bands.band_sums`.
        linear_gradient: ``(V,)``: gradients at first-order weights; None without them, like the next two.
        linear_information: float64 ``(F,)``: squares of these gradients.
        product: float64 ``(F, D)``: their products with the gradients at values.
        met: int32 ``(V,)``: how often each token was looked up; None if this is not kept, like the next two.
        stood: ``(V, D)``: the values of the token at each lookup.
        linear_stood: ``(V,)``: its first-order weight at each lookup; None without them.
    """

    rows: Tensor
    gradient: Tensor
    information: Tensor
    bands: Tensor
    linear_gradient: Tensor | None = None
    linear_information: Tensor | None = None
    product: Tensor | None = None
    met: Tensor | None = None
    stood: Tensor | None = None
    linear_stood: Tensor | None = None

    @classmethod
    def zeros(cls, weight: Tensor, linear: Tensor | None, num_fields: int, keeps_standing: bool) -> RowSums:
        """Returns sums of zero.

        Args:
            weight: ``(V, D)``: the table.
            linear: ``(V, 1)``: the first-order weights, or None.
            num_fields: ``F``.
            keeps_standing: whether to keep sums of the values at each lookup.
        """
        num_tokens, dim = weight.shape
        wide = partial(weight.new_zeros, dtype=torch.float64)
        sums = cls(
            rows=wide(1),
            gradient=torch.zeros_like(weight, requires_grad=False),
            information=wide(num_fields, dim, dim),
            bands=wide(2 if linear is None else 3, num_fields, BANDS),
        )
        if linear is not None:
            sums.linear_gradient = weight.new_zeros(num_tokens)
            sums.linear_information = wide(num_fields)
            sums.product = wide(num_fields, dim)
        if keeps_standing:
            sums.met = weight.new_zeros(num_tokens, dtype=torch.int32)
            sums.stood = torch.zeros_like(weight, requires_grad=False)
            sums.linear_stood = None if linear is None else weight.new_zeros(num_tokens)
        return sums

    def state(self) -> dict[str, Tensor]:
        """Returns the sums by name, without copies."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def of_some(self, tokens: Tensor) -> RowSums:
        """Returns the sums for some tokens ``(n,)``; sums that belong to no token stay as they are."""
        return RowSums(**{name: each[tokens] if name in PER_TOKEN else each for name, each in self.state().items()})

    def add_moments(self, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None) -> None:
        """Adds the rows of a batch to the sums that belong to no token.

        Args:
            frequencies: ``(B, F)``: training rows of each token.
            row_grad: ``(B, F, D)``: gradients of each row's loss at its embeddings.
            linear_grad: ``(B, F)``: the same at its first-order weights, or None.
        """
        self.rows += len(row_grad)
        self.bands += band_sums(frequencies, row_grad, linear_grad)
        # All products of a field's gradients at once; the gradient at the first-order weight comes last.
        parts = [row_grad] if linear_grad is None else [row_grad, linear_grad.unsqueeze(-1)]
        by_field = torch.cat([part.to(self.gradient.dtype).transpose(0, 1) for part in parts], 2)  # (F, B, D + 1)
        products, dim = by_field.transpose(1, 2) @ by_field, row_grad.shape[2]
        self.information += products[:, :dim, :dim]
        if self.linear_information is not None and self.product is not None:
            self.linear_information += products[:, dim, dim]
            self.product += products[:, dim, :dim]

    def add_tokens(self, tokens: Tensor, row_grad: Tensor, linear_grad: Tensor | None) -> None:
        """Adds the gradients ``(U, D)`` and ``(U,)`` of distinct tokens ``(U,)``, summed over rows."""
        self.gradient.index_add_(0, tokens, row_grad.to(self.gradient.dtype))
        if self.linear_gradient is not None and linear_grad is not None:
            self.linear_gradient.index_add_(0, tokens, linear_grad.to(self.linear_gradient.dtype))

    def add_standing(self, weight: Tensor, linear: Tensor | None, tokens: Tensor, counts: Tensor) -> None:
        """Adds the current values of distinct tokens ``(U,)``, times their number of lookups ``(U,)``, if kept."""
        if self.met is None or self.stood is None:
            return
        self.met.index_add_(0, tokens, counts.int())
        self.stood.index_add_(0, tokens, weight[tokens].to(self.stood.dtype) * counts.unsqueeze(1))
        if linear is not None and self.linear_stood is not None:
            standing = linear[tokens, 0].to(self.linear_stood.dtype)
            self.linear_stood.index_add_(0, tokens, standing * counts)

    def mean_standing(self, end: Tensor, part: slice | Tensor, linear: bool = False) -> Tensor:
        """Returns the mean of values over the rows that looked them up, or the final values if no row did.

        Args:
            end: final values ``(n, D)``, or first-order weights ``(n,)``.
            part: which tokens.
            linear: whether these are first-order weights.
        """
        stood = self.linear_stood if linear else self.stood
        if self.met is None or stood is None:
            return end
        met = self.met[part].view(-1, *[1] * (end.ndim - 1))
        # Values that were pruned before are 0, whatever they were.
        return torch.where((met > 0) & (end != 0), stood[part] / met.clamp(min=1), end)

    def row_information(self, basis: Tensor | None) -> RowInformation:
        """Returns what the rows tell, along the axes of a basis ``(D, D)`` or ``(F, D, D)``."""
        products, linear = self.information, self.product
        if basis is not None:
            products = basis.double().mT @ products @ basis.double()
            linear = None if linear is None else (linear.unsqueeze(1) @ basis.double()).squeeze(1)
        return RowInformation.of_sums(self.rows, products, self.linear_information, linear, self.bands)
