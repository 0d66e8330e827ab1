"""The simple rules that a learned search has to beat, as criteria that need neither gradients nor training.

Each rule gives a token one ``value`` and scores the token's j-th parameter by ``value / j`` (j = 1, 2, ...). This is
d'Hondt's rule: keeping the largest scores makes a token's share of the budget proportional to its value, up to D.
With first-order weights, the first-order weight is a token's first parameter, or its last.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pme_lightning.embedding.fields import for_each_token
from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.search.criterion import Criterion, KnowsFields, Scores

_PLACES = ("first", "last")


class Control(Criterion):
    """A rule that gives every token a share of the budget.

    Args:
        first_order: whether a token's first-order weight comes before its embedding values (``first``) or after all
            D of them (``last``). If a backbone can also learn from embeddings what a first-order weight says, as
            DeepFM's network does, a small budget is better spent on embedding values.

    Raises:
        BadInput: ``first_order`` is neither.
    """

    def __init__(self, first_order: Literal["first", "last"] = "first") -> None:
        if first_order not in _PLACES:
            raise BadInput(
                f"{type(self).__name__}: first_order {first_order!r} is unknown; "
                f"{did_you_mean(str(first_order), _PLACES)}"
            )
        self.first_order = first_order

    @abstractmethod
    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ``(V,)``, at least 0: each token's share of the budget is proportional to it."""

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        value = self.value(frequencies).to(weight)
        before = int(linear is not None and self.first_order == "first")
        ranks = torch.arange(1, 1 + weight.shape[1], dtype=weight.dtype, device=weight.device) + before
        last = weight.shape[1] + 1
        return Scores(
            table=value.unsqueeze(1) / ranks,
            linear=None if linear is None else value if self.first_order == "first" else value / last,
        )


class Uniform(Control):
    """The same size for every token; the remainder goes to the tokens of highest priority."""

    splits: ClassVar[bool] = True

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ones."""
        return torch.ones_like(frequencies, dtype=torch.float64)


class Popularity(Control):
    """A size proportional to ``frequency ** alpha`` in the training split.

    After mixed dimension embeddings (Ginart et al. 2021, arXiv:1909.11810), here per token instead of per block.

    Args:
        alpha: the exponent: 0 is uniform, 1 is proportional to the frequency.
        first_order: whether first-order weights come ``first`` or ``last``, as in :class:`Control`.

    Raises:
        BadInput: alpha is negative or not finite, or ``first_order`` is unknown.
    """

    splits: ClassVar[bool] = True

    def __init__(self, alpha: float = 0.5, first_order: Literal["first", "last"] = "first") -> None:
        super().__init__(first_order)
        self.alpha = _checked_alpha("Popularity", alpha)

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ``frequencies ** alpha``."""
        return frequencies.double() ** self.alpha


class FieldPopularity(KnowsFields, Control):
    """A size for each field, proportional to ``p ** alpha`` of its tokens' average probability ``p``.

    The rule of mixed dimension embeddings with fields as blocks (MDE: Ginart et al. 2021, arXiv:1909.11810). Every
    row has one token of each field, so ``p`` is 1 over the field's number of tokens. With
    :class:`~pme_lightning.search.FieldSizes`, the factor of proportionality is the one that meets the budget.

    The paper rounds sizes to the nearest whole number, at least 1, even if that exceeds the budget. Here, each field
    first gets one value per token, fields of highest ``p`` first; a field that is too large for that stays at 0.
    The j-th value (j = 2, 3, ...) then scores ``p ** alpha / (j - 1/2)`` (Sainte-Laguë's rule): sizes are the
    proportional ones, rounded to the nearest, up to D and as far as whole fields fit into the budget. If there are
    first-order weights (the paper has none), they are the first values of a field.

    Args:
        alpha: the exponent: 0 is uniform; the best values in the paper are about 0.3.

    Raises:
        BadInput: alpha is negative or not finite.
    """

    def __init__(self, alpha: float = 0.3) -> None:
        super().__init__()
        self.alpha = _checked_alpha("FieldPopularity", alpha)

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns ``(p_f / max p) ** alpha`` of each token's field, in (0, 1]."""
        fields = self._fields(len(frequencies))
        tokens = torch.tensor(fields, device=frequencies.device)
        return for_each_token((tokens.min() / tokens).double() ** self.alpha, fields)

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
    """A size proportional to a random number for each token.

    Args:
        seed: seed of the numbers, which are the same on every device and in every process.
        first_order: whether first-order weights come ``first`` or ``last``, as in :class:`Control`.
    """

    splits: ClassVar[bool] = True

    def __init__(self, seed: int = 0, first_order: Literal["first", "last"] = "first") -> None:
        super().__init__(first_order)
        self.seed = seed

    def value(self, frequencies: Tensor) -> Tensor:
        """Returns uniform random numbers in [0, 1)."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(self.tokens.total(len(frequencies)), generator=generator, dtype=torch.float64)
        return self.tokens.cut(drawn)


def _checked_alpha(owner: str, alpha: float) -> float:
    if not math.isfinite(alpha) or alpha < 0:
        raise BadInput(f"{owner}: alpha is {alpha}; it must be 0 or more")
    return alpha
