"""Where the values of a field's tokens are heading, and what their squares are expected to be after training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.embedding.row_chunks import FEW_ROWS, row_chunks
from pme_lightning.search.across import Tokens
from pme_lightning.search.spectrum import Spectrum


@dataclass(frozen=True)
class Targets:
    """One Newton step from each of the ``K`` values of a token.

    Attributes:
        own: the range of the field's tokens among those held here.
        frequencies: ``(V,)``: training rows of each token.
        epochs: ``(1,)``: how often the window has seen the training split.
        information: returns ``h``, what one row tells about the values of tokens of the field ``(n, K)``, given their
            frequencies ``(n,)``.
        values_and_gradients: returns, for some tokens, their values ``(n, K)`` float64 (the final ones, or their mean
            over the window if the second argument is true), and their gradients, summed over the rows of the window.
        tokens: how processes agree if tokens are split over them.
    """

    own: slice
    frequencies: Tensor
    epochs: Tensor
    information: Callable[[Tensor], Tensor]
    values_and_gradients: Callable[[slice | Tensor, bool], tuple[Tensor, Tensor]]
    tokens: Tokens

    def of(self, part: slice | Tensor, mean: bool = False) -> tuple[Tensor, Tensor]:
        """Returns the targets ``(n, K)`` of some tokens, 0 if no row tells anything, and what the window tells.

        Args:
            part: which tokens.
            mean: whether to start from the mean of values over the window, not from their final values.
        """
        values, gradients = self.values_and_gradients(part, mean)
        seen = self._seen(self.frequencies[part])
        known = seen > 0
        # A window of several epochs sees a token's rows several times, and learns no more from them.
        gradients = gradients / self.epochs.clamp(min=1)
        return torch.where(known, values - gradients / torch.where(known, seen, 1.0), 0), seen

    def spectrum(self, shared: bool | None, all_values: bool) -> Spectrum:
        """Returns what the targets say about the true values.

        Args:
            shared: whether the field shares its noise with others; None: this is estimated.
            all_values: whether all tokens have all values; otherwise, the distribution of sizes is estimated.
        """
        counts = self.tokens.union(self.frequencies[self.own])
        seen = self._seen(counts)
        sums, number = torch.zeros_like(seen), torch.zeros_like(counts)

        def place(part: slice) -> Tensor:
            return torch.searchsorted(counts, self.frequencies[part])

        def some(of_these: Tensor, enough: int) -> tuple[Tensor, Tensor]:
            """Returns the targets of an evenly spaced sample of the tokens of these frequencies."""
            found = torch.cat([part.start + of_these[place(part)].nonzero().squeeze(1) for part in self._parts()])
            return self.of(found[:: max(1, len(found) // enough)])

        for part in self._parts():
            places = place(part)
            sums.index_add_(0, places, self.of(part)[0].square())
            number += torch.bincount(places, minlength=len(counts))

        sums, number = self.tokens.sum(sums), self.tokens.sum(number)
        return Spectrum.of_targets(sums, number, seen, shared, None if all_values else some, self.tokens)

    def write_squares(self, spectrum: Spectrum, squares: Tensor) -> None:
        """Writes ``E[w²]`` for the field's tokens into the squares ``(V, K)`` of all tokens held here."""
        for part in self._parts():
            squares[part] = spectrum.squares(*self.of(part, mean=True))

    def _seen(self, counts: Tensor) -> Tensor:
        """Returns what the window tells about the values of tokens with these frequencies, ``(n, K)``."""
        return counts.double().unsqueeze(1) * self.information(counts) * self.epochs.clamp(max=1)

    def _parts(self) -> list[slice]:
        return list(row_chunks(self.own.start, self.own.stop, FEW_ROWS))
