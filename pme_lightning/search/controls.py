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
        if not math.isfinite(alpha) or alpha < 0:
            raise BadInput(f"Popularity: alpha is {alpha}; it must be 0 or more")
        self.alpha = alpha

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ``frequencies ** alpha``."""
        return frequencies.double() ** self.alpha


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
