"""How large the true values of a field's tokens are, and how many values tokens have: empirical Bayes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.search.across import ALONE, Tokens

# Steps to the fixed point of a field's spectrum; after half of them, it changes by less than a thousandth.
_FIXED_POINT_STEPS = 20
_LEAST_VARIANCE = 1e-9
# Below this share of noise, a field shares what is to be fitted with others: the geometric mean of 1 and 1/4.
_SHARED = 0.5
# Number of tokens from which the sizes are estimated: tokens with some value that can be told from noise.
_TOKENS = 1 << 11
_SIZE_STEPS = 30
# Initial and maximal variance of the values that tokens do not have, relative to the mean square.
_START, _MOST = 0.02, 0.25
# Noise is at least this fraction of the mean square: even if it is estimated as zero, rows are not that exact.
_LEAST_NOISE = 1e-6
_LEAST_SHARE = 1e-9


@dataclass(frozen=True)
class Spectrum:
    """What the targets of a field's tokens say about their true values, along ``K`` axes. All in float64.

    Attributes:
        variance: ``(K,)``: the mean square of the true values, ``σ²``.
        share: ``(K,)``: the noise in the targets as a share of the variance that rows leave, ``λ``.
        shared: whether ``λ`` was estimated; otherwise it is 1.
        sizes: ``(K + 1,)``: the fractions of tokens that have 0, 1, ... ``K`` values.
        wide: ``(K,)``: the variance of values that tokens have.
        narrow: ``(K,)``: the variance of values beyond a token's size.
    """

    variance: Tensor
    share: Tensor
    shared: bool
    sizes: Tensor
    wide: Tensor
    narrow: Tensor

    @classmethod
    def of_targets(
        cls,
        sums: Tensor,
        number: Tensor,
        seen: Tensor,
        shared: bool | None,
        some: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None,
        tokens: Tokens = ALONE,
    ) -> Spectrum:
        """Estimates the spectrum.

        Args:
            sums: ``(U, K)``: the sums of the squared targets over the tokens of each frequency.
            number: ``(U,)``: how many tokens have each frequency.
            seen: ``(U, K)``: what the window tells about them; noise is the inverse of it.
            shared: whether to estimate ``λ``; otherwise it is 1. None: only if it is small.
            some: returns targets ``(n, K)`` and what the window tells about them ``(n, K)``, for tokens held here,
                given which frequencies they may have ``(U,)`` and about how many are enough; None: all tokens have all
                values.
            tokens: how processes agree if tokens are split over them.
        """
        variance, share, shared = _moments(sums, number, seen, shared)
        if some is None:
            sizes, wide, narrow = _all_values(variance)
        else:
            sizes, wide, narrow = _sizes(*some(telling(seen, variance, share), _TOKENS), variance, share, tokens)
        return cls(variance, share, shared, sizes, wide, narrow)

    def squares(self, targets: Tensor, seen: Tensor) -> Tensor:
        """Returns the expected squares of the true values, ``(n, K)``; 0 if no row tells anything.

        Args:
            targets: ``(n, K)``: where values are heading.
            seen: ``(n, K)``: what the window tells about them.
        """
        noise = _noise(seen, self.variance, self.share)
        has = _at_least(_posterior(targets, noise, seen > 0, self.sizes, self.wide, self.narrow))
        found = has * _second_moment(targets, noise, self.wide)
        found += (1 - has) * _second_moment(targets, noise, self.narrow)
        return torch.where(seen > 0, found, 0)


def telling(seen: Tensor, variance: Tensor, share: Tensor) -> Tensor:
    """Returns which tokens ``(n,)`` have a value that can be told from noise, given what the window tells."""
    return (seen > 0).all(1) & (variance > 2 * _noise(seen, variance, share)).any(1)


def _noise(seen: Tensor, variance: Tensor, share: Tensor) -> Tensor:
    return torch.maximum(share / torch.where(seen > 0, seen, 1.0), _LEAST_NOISE * variance)


def _second_moment(targets: Tensor, noise: Tensor, variance: Tensor) -> Tensor:
    """Returns ``E[w²]`` given ``t = w + noise`` and the variance of ``w``."""
    trust = variance / (variance + noise)
    return (trust * targets).square() + variance * (1 - trust)


def _posterior(targets: Tensor, noise: Tensor, known: Tensor, sizes: Tensor, wide: Tensor, narrow: Tensor) -> Tensor:
    """Returns the probabilities ``(n, K + 1)`` of each size, given targets and which of them rows tell about."""

    def likelihood(variance: Tensor) -> Tensor:
        total = variance + noise
        return -(total.log() + targets.square() / total) / 2

    ratios = torch.where(known, likelihood(wide) - likelihood(narrow), 0)
    has_more = torch.cat([ratios.new_zeros(len(ratios), 1), ratios.cumsum(1)], 1)
    return (has_more + sizes.log()).softmax(1)


def _at_least(sizes: Tensor) -> Tensor:
    """Returns the probabilities ``(..., K)`` of a first, second, ... value, given those of each size."""
    return sizes.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def _sizes(
    targets: Tensor, seen: Tensor, variance: Tensor, share: Tensor, tokens: Tokens
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates how many values tokens have, by expectation maximization.

    Values that a token has are of variance ``wide``, those beyond its size of variance ``narrow``. Their mean square
    is fixed to that of all tokens: the fewer tokens have a value, the larger ``wide`` is. The prior is one more token,
    with all values.

    Returns:
        ``sizes``, ``wide`` and ``narrow`` of :class:`Spectrum`.
    """
    axes, count = len(variance), tokens.total(len(targets))
    if not count:
        return _all_values(variance)
    noise, known = _noise(seen, variance, share), seen > 0
    sizes, narrow = variance.new_full((axes + 1,), 1 / (axes + 1)), _START * variance
    for _ in range(_SIZE_STEPS):
        chances = _posterior(targets, noise, known, sizes, _wide(variance, sizes, narrow), narrow)
        beyond = (1 - _at_least(chances)).clamp(min=0)  # rounding makes some of it negative
        found = [chances.sum(0), beyond.sum(0), (beyond * _second_moment(targets, noise, narrow)).sum(0)]
        total, without, squares = tokens.sum(torch.cat(found)).split([axes + 1, axes, axes])
        total[-1] += 1
        sizes = (total / (count + 1)).clamp(min=_LEAST_SHARE)
        narrow = torch.minimum(squares / without.clamp(min=_LEAST_SHARE), _MOST * variance)
    return sizes, _wide(variance, sizes, narrow), narrow


def _all_values(variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what :func:`_sizes` would if all tokens have all values."""
    sizes = variance.new_full((len(variance) + 1,), _LEAST_SHARE)
    sizes[-1] = 1
    return sizes, variance, variance


def _wide(variance: Tensor, sizes: Tensor, narrow: Tensor) -> Tensor:
    """Returns the variance of values that tokens have, given the mean square of all and the variance of the others."""
    has = _at_least(sizes)
    return ((variance - (1 - has) * narrow) / has).clamp(min=_LEAST_VARIANCE)


def _moments(sums: Tensor, number: Tensor, seen: Tensor, shared: bool | None = None) -> tuple[Tensor, Tensor, bool]:
    """Returns ``σ²`` ``(K,)``, the variance of the true values behind targets, and ``λ`` ``(K,)``, their noise.

    Estimates weight each token by how precisely its square is known, ``(σ² + λ noise)^-2``, and so depend on
    themselves. Tokens of equal frequency have equal noise: the steps to the fixed point use one row per frequency.
    Arguments are as in :meth:`Spectrum.of_targets`; the last result says whether ``λ`` was estimated.
    """
    known = seen > 0
    noise = torch.where(known, 1 / torch.where(known, seen, 1.0), 0)
    tokens = torch.where(known, number.unsqueeze(1).double(), 0)
    squares = torch.where(known, sums / number.clamp(min=1).unsqueeze(1), 0)
    if shared is not False:
        spectrum, share = _fixed_point(squares, tokens, noise, None)
        if shared or float(share.mean()) < _SHARED:
            return spectrum, share, True
    return *_fixed_point(squares, tokens, noise, squares.new_ones(squares.shape[1])), False


def _fixed_point(squares: Tensor, tokens: Tensor, noise: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor]:
    """Fits ``squares = σ² + λ noise``, all ``(U, K)``, by weighted least squares; also fits ``λ`` if it is None."""
    spectrum = squares.new_full((squares.shape[1],), 1e-3)
    given, share = share, torch.ones_like(spectrum) if share is None else share
    for _ in range(_FIXED_POINT_STEPS if given is not None else 2 * _FIXED_POINT_STEPS):
        weight = torch.where(tokens > 0, tokens * (spectrum + share * noise).pow(-2), 0)
        total = weight.sum(0).clamp(min=1e-300)
        mean_noise, mean_square = (weight * noise).sum(0) / total, (weight * squares).sum(0) / total
        if given is None:
            # The slope of a straight line; it is undefined if all tokens have the same frequency.
            apart = noise - mean_noise
            spread = (weight * apart.square()).sum(0) / total
            slope = (weight * apart * squares).sum(0) / total / spread.clamp(min=1e-300)
            share = torch.where(spread > 1e-12 * mean_noise.square(), slope.clamp(0, 1), 1)
        spectrum = (mean_square - share * mean_noise).clamp(min=_LEAST_VARIANCE)
    return spectrum, share
