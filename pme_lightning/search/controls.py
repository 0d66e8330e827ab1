"""The simple rules that a learned search has to beat, as criteria that need neither gradients nor training.

Each gives a token one ``value`` and scores the token's j-th parameter ``value / j`` (j = 1, 2, ...), which is
d'Hondt's rule: keeping the largest of these makes a token's share of the budget proportional to its value, up to
D. With first-order weights, a token's first parameter is its first-order weight and the embedding values follow.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search.criteria import Criterion, Scores
from pme_lightning.search.field_level import KnowsFields


class Control(Criterion):
    """A rule that gives every token a share of the budget."""

    @abstractmethod
    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ``(V,)`` at least 0: what each token's share is proportional to."""

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        value = self.value(frequencies).to(weight)
        first = 1 if linear is None else 2
        ranks = torch.arange(first, first + weight.shape[1], dtype=weight.dtype, device=weight.device)
        return Scores(table=value.unsqueeze(1) / ranks, linear=None if linear is None else value)


class Uniform(Control):
    """The same size for every token; what the division leaves goes to the tokens of highest priority."""

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ones."""
        return torch.ones_like(frequencies, dtype=torch.float64)


class Popularity(Control):
    """A size proportional to ``frequency ** alpha`` in the training split.

    After mixed dimension embeddings (Ginart et al. 2021, arXiv:1909.11810), here per token instead of per block.

    Args:
        alpha: 0 is uniform, 1 is proportional to the frequency.

    Raises:
        BadInput: alpha is negative or not finite.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = _checked_alpha("Popularity", alpha)

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ``frequencies ** alpha``."""
        return frequencies.double() ** self.alpha


class FieldPopularity(KnowsFields, Control):
    """A size for each field, proportional to ``p ** alpha`` of its tokens' average probability ``p``.

    The rule of mixed dimension embeddings with fields as blocks (MDE: Ginart et al. 2021, arXiv:1909.11810). Every
    row has one token of each field, so ``p`` is 1 over the field's number of tokens. With
    :class:`~pme_lightning.search.FieldSizes`, the factor of proportionality is the one that meets the budget.

    The paper rounds sizes to the nearest whole number, at least 1, and lets that overrun its budget. Here first each
    field gets one value a token, those of highest ``p`` first; where a field is too large for that, it stays at 0.
    The j-th value (j = 2, 3, ...) then scores ``p ** alpha / (j - 1/2)``, Sainte-Laguë's rule: sizes are the
    proportional ones rounded to the nearest, up to D and as far as whole fields fit into the budget. With
    first-order weights, which the paper has none of, a field's first value is its tokens' first-order weight.

    Args:
        alpha: 0 is uniform; the paper's best are about 0.3.

    Raises:
        BadInput: alpha is negative or not finite.
    """

    def __init__(self, alpha: float = 0.3) -> None:
        self.alpha = _checked_alpha("FieldPopularity", alpha)

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ``(p_f / max p) ** alpha`` of each token's field, in (0, 1]."""
        fields = torch.tensor(self._fields(len(frequencies)), device=frequencies.device)
        return ((fields.min() / fields).double() ** self.alpha).repeat_interleave(fields)

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        value = self.value(frequencies).to(weight)
        first = 1 if linear is None else 2
        ranks = torch.arange(first, first + weight.shape[1], dtype=weight.dtype, device=weight.device)
        table = value.unsqueeze(1) / (ranks - 0.5)
        # Above every score of a second value, which is at most 1 / 1.5.
        if linear is None:
            table[:, 0] = 1 + value
        return Scores(table=table, linear=None if linear is None else 1 + value)


class Random(Control):
    """A size proportional to a random number of its token's own.

    Args:
        seed: draws the numbers, the same on every device and in every process.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns uniform random numbers in [0, 1)."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(len(frequencies), generator=generator, dtype=torch.float64)


def _checked_alpha(owner: str, alpha: float) -> float:
    if not math.isfinite(alpha) or alpha < 0:
        raise BadInput(f"{owner}: alpha is {alpha}; it must be 0 or more")
    return alpha
