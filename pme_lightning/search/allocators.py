"""Allocators: they turn scores and a budget into a size for every token."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.search.across import ALONE, Tokens
from pme_lightning.search.concave import cached_chunks, majorant_slopes
from pme_lightning.search.selection import select, select_by_field

_SCOPES = ("global", "field")


class Allocation(NamedTuple):
    """What every token keeps.

    Attributes:
        sizes: ``(V,)`` int64 in [0, D]: how many embedding values each token owns.
        linear: ``(V,)`` bool: whether its first-order weight is kept; None without first-order weights.
    """

    sizes: Tensor
    linear: Tensor | None


def check_allocation(
    allocator: str, allocation: Allocation, shape: Sequence[int], linear: bool, values: int, tokens: Tokens
) -> None:
    """Checks the sizes that an allocator, possibly a user's, has returned.

    Args:
        allocator: Name of the allocator.
        allocation: What it returned.
        shape: ``(V, D)``, for the tokens of the table held here.
        linear: Whether there are first-order weights.
        values: How many per-token values it had to share out.
        tokens: How processes agree if tokens are split over them.

    Raises:
        BadInput: It is not an allocation for these tokens, a size is outside 0 ... D, or there are too many values.
    """
    (num_tokens, dim), must = shape, f"search.allocator {allocator} must return an Allocation"
    if not isinstance(allocation, Allocation):
        raise BadInput(f"{must}, not {type(allocation).__name__}")
    sizes, kept = allocation.sizes, allocation.linear
    for name, each in (("sizes", sizes), ("linear", kept)) if linear else (("sizes", sizes),):
        if not isinstance(each, Tensor) or each.is_floating_point() or each.shape != (num_tokens,):
            of = f"of shape {tuple(each.shape)} and {each.dtype}" if isinstance(each, Tensor) else type(each).__name__
            raise BadInput(f"{must} whose {name} are whole numbers or bool ({num_tokens},), not {of}")
    if len(sizes) and (int(sizes.min()) < 0 or int(sizes.max()) > dim):
        raise BadInput(
            f"search.allocator {allocator} gave sizes from {int(sizes.min())} to {int(sizes.max())}; they must lie in "
            f"0 ... {dim}"
        )
    taken = tokens.total(int(sizes.sum()) + (0 if kept is None else int(kept.sum())))
    if taken > values:
        raise BadInput(f"search.allocator {allocator} gave away {taken:,} values, and the budget leaves {values:,}")


class Allocator(ABC):
    """Shares out a budget of per-token values.

    Values compete by how much the next one adds to a token's score: the largest slopes of each token's concave
    majorant are kept until the budget runs out. This maximizes the total score at every budget where no token's
    best size is ambiguous. Ties go to the token of higher priority, then to a token's earlier values (its
    first-order weight before its embedding values), then to the lower token id. The budget is met exactly, or
    undershot by less than one size step, and a larger budget never makes any token smaller.

    Args:
        scope: which tokens compete: all of them (``global``), or those of each field (``field``), in which case every
            field keeps the same fraction of its own values.
        allowed_sizes: the sizes a token may have besides 0; null for all of 1 ... D.
        min_size: minimum size of every token.

    Attributes:
        splits: whether it works with tokens that are split over processes.

    Raises:
        BadInput: an argument is out of range.
    """

    splits: ClassVar[bool] = False

    def __init__(
        self,
        scope: Literal["global", "field"] = "global",
        allowed_sizes: Sequence[int] | None = None,
        min_size: int = 0,
    ) -> None:
        name = type(self).__name__
        if scope not in _SCOPES:
            raise BadInput(f"{name}: scope {scope!r} is unknown; {did_you_mean(str(scope), _SCOPES)}")
        if min_size < 0:
            raise BadInput(f"{name}: min_size is {min_size}; it must be 0 or more")
        if allowed_sizes is not None:
            if not allowed_sizes or min(allowed_sizes) < 1:
                raise BadInput(
                    f"{name}: allowed_sizes is {list(allowed_sizes)}; give one or more sizes of at least 1 "
                    "(0 is always allowed), or null for all"
                )
            if min_size and min_size not in allowed_sizes:
                raise BadInput(f"{name}: min_size {min_size} is not among the allowed_sizes {list(allowed_sizes)}")
        self.scope = scope
        self.allowed_sizes = None if allowed_sizes is None else sorted(set(allowed_sizes))
        self.min_size = min_size

    def allocate(
        self,
        scores: Tensor,
        budget: int,
        linear_scores: Tensor | None = None,
        priority: Tensor | None = None,
        field_tokens: Sequence[int] | None = None,
        tokens: Tokens = ALONE,
    ) -> Allocation:
        """Shares out ``budget`` values.

        Args:
            scores: ``(V, D)``: the score of each embedding value; only the order and ratios matter.
            budget: how many values all tokens together may keep, first-order weights included.
            linear_scores: ``(V,)``: the score of each first-order weight, in the unit of ``scores``.
            priority: ``(V,)``: breaks ties, the higher first; for example, the token's frequency.
            field_tokens: number of tokens of each field, whose ids are consecutive; needed for ``scope="field"``.
            tokens: how processes agree if tokens are split over them; ``V`` is then the number of tokens held here,
                while budget and fields are those of all tokens.

        Raises:
            BadInput: a score is not finite, shapes disagree, sizes lie outside [1, D], or not even
                ``min_size`` values of every token fit.
        """
        self._check(scores, budget, linear_scores, priority, field_tokens, tokens)
        slopes, costs = self._slopes(scores, linear_scores)
        budget -= tokens.total(len(scores)) * self.min_size
        priority = None if priority is None else priority.to(scores.device)
        if self.scope == "field" and field_tokens is not None:
            taken = select_by_field(slopes, costs, budget, priority, field_tokens, tokens)
        else:
            taken = select(slopes, costs, budget, priority, tokens)
        return self._of_taken(taken, scores.shape[1], linear_scores is not None)

    @property
    def has_one_price(self) -> bool:
        """Whether a token's size depends only on its own scores and the slope at which the budget runs out."""
        return self.scope == "global" and type(self).allocate is Allocator.allocate

    def allocate_some(
        self, scores: Tensor, budget: int, drawn: Tensor, linear_scores: Tensor | None = None
    ) -> Allocation:
        """Gives some tokens the sizes that they would have among all tokens, judged by a sample that represents all.

        Needs :attr:`has_one_price`. Of ties at the slope where the budget runs out, all are kept.

        Args:
            scores: ``(n, D)``: as in :meth:`allocate`.
            budget: how many values the tokens of the sample may keep.
            drawn: ``(n,)`` bool: which tokens are in the sample.
            linear_scores: ``(n,)``: as in :meth:`allocate`.

        Raises:
            BadInput: as in :meth:`allocate`.
        """
        stand = drawn.nonzero().squeeze(1)
        self._check(scores, budget + (len(scores) - len(stand)) * self.min_size, linear_scores, None, None, ALONE)
        slopes, costs = self._slopes(scores, linear_scores)
        theirs = slopes.index_select(1, stand)
        paid = theirs[select(theirs, costs, budget - len(stand) * self.min_size)]
        least = float(paid.min()) if len(paid) else math.inf
        return self._of_taken(slopes >= least, scores.shape[1], linear_scores is not None)

    def _slopes(self, scores: Tensor, linear_scores: Tensor | None) -> tuple[Tensor, list[int]]:
        """Returns the score per value of each step of a token's size, ``(K, V)`` falling, and the cost of each step.

        With first-order weights, these are the first row.
        """
        num_tokens, embedding_dim = scores.shape
        sizes = self._steps(embedding_dim)
        costs = [end - start for start, end in itertools.pairwise(sizes)]
        first = int(linear_scores is not None)  # rows of `slopes` before those of the table
        dtype = torch.float64 if torch.float64 in (scores.dtype, _dtype(linear_scores)) else torch.float32
        slopes = torch.empty((first + len(costs), num_tokens), dtype=dtype, device=scores.device)
        if linear_scores is not None:
            slopes[0] = linear_scores
        for rows in cached_chunks(num_tokens, embedding_dim):
            columns = self._in_order(scores[rows]).T[self.min_size : sizes[-1]].double()
            if max(costs, default=1) > 1:
                columns = torch.stack([step.sum(0) for step in columns.split(costs)])
            slopes[first:, rows] = majorant_slopes(columns, costs).to(dtype)
        return slopes, [1] * first + costs

    def _of_taken(self, taken: Tensor, embedding_dim: int, has_linear: bool) -> Allocation:
        """Returns the sizes of tokens, given which of their steps ``(K, V)`` are taken."""
        first = int(has_linear)
        steps_taken = torch.zeros(taken.shape[1], dtype=torch.int64, device=taken.device)
        for row in taken[first:]:
            steps_taken += row  # summing all rows at once would make a 64-bit copy
        sizes = torch.tensor(self._steps(embedding_dim), device=taken.device)
        return Allocation(sizes[steps_taken], taken[0].clone() if first else None)

    def _steps(self, embedding_dim: int) -> list[int]:
        """Returns the sizes that a token may have, in ascending order."""
        return [self.min_size, *(size for size in self._sizes(embedding_dim) if size > self.min_size)]

    @abstractmethod
    def kept(self, scores: Tensor, sizes: Tensor) -> Tensor:
        """Returns ``(V, D)`` bool: which of a token's positions its ``sizes`` values are."""

    @abstractmethod
    def _in_order(self, scores: Tensor) -> Tensor:
        """Returns the scores in the order in which a token's values are kept."""

    def _sizes(self, embedding_dim: int) -> Sequence[int]:
        return self.allowed_sizes if self.allowed_sizes is not None else range(1, embedding_dim + 1)

    def _check(
        self,
        scores: Tensor,
        budget: int,
        linear_scores: Tensor | None,
        priority: Tensor | None,
        field_tokens: Sequence[int] | None,
        tokens: Tokens,
    ) -> None:
        name = type(self).__name__
        num_tokens, embedding_dim = scores.shape
        per_token: dict[str, Tensor | None] = {"linear_scores": linear_scores, "priority": priority}
        for what, tensor in per_token.items():
            if tensor is not None and tensor.shape != (num_tokens,):
                raise BadInput(f"{name}: {what} has shape {tuple(tensor.shape)}; it must be ({num_tokens},)")
        for what, tensor in {"scores": scores, **per_token}.items():
            if tensor is None or not tensor.is_floating_point() or tokens.total(tensor.numel()) == 0:
                continue
            # The extremes are NaN if any score is, and computing them needs no copy of the scores.
            if not all(math.isfinite(bound.item()) for bound in tokens.extremes(tensor)):
                raise BadInput(
                    f"{name}: {what} hold NaN or infinity: training diverged (lower the learning rate), "
                    "or the rule's numbers overflow (a smaller alpha keeps Popularity finite)"
                )
        all_tokens = tokens.total(num_tokens)
        self.check_sizes(all_tokens, embedding_dim, budget, field_tokens)
        if self.scope == "field":
            if field_tokens is None:
                raise BadInput(f"{name}: scope 'field' needs field_tokens, the number of tokens of each field")
            if sum(field_tokens) != all_tokens:
                raise BadInput(
                    f"{name}: field_tokens add up to {sum(field_tokens)}, the scores have {all_tokens} tokens"
                )

    def check_sizes(
        self, num_tokens: int, embedding_dim: int, budget: int, field_tokens: Sequence[int] | None = None
    ) -> None:
        """Checks, before there are scores, that the requested sizes are possible.

        Args:
            num_tokens: ``V``.
            embedding_dim: ``D``.
            budget: as in :meth:`allocate`.
            field_tokens: as in :meth:`allocate`.

        Raises:
            BadInput: sizes lie outside [1, D], or not even ``min_size`` values of every token fit.
        """
        name = type(self).__name__
        if self.min_size > embedding_dim:
            raise BadInput(f"{name}: min_size {self.min_size} is above the embedding dimension {embedding_dim}")
        if self.allowed_sizes is not None and self.allowed_sizes[-1] > embedding_dim:
            raise BadInput(
                f"{name}: allowed_sizes {self.allowed_sizes} must lie in 1 ... {embedding_dim}, the embedding dimension"
            )
        if budget < num_tokens * self.min_size:
            raise BadInput(
                f"{name}: min_size {self.min_size} for each of {num_tokens} tokens takes "
                f"{num_tokens * self.min_size} values, more than the budget leaves to tokens; "
                f"the largest min_size that fits is {self._largest_min_size(budget // max(1, num_tokens))}"
            )

    def _largest_min_size(self, share: int) -> int:
        return max((size for size in self._sizes(max(0, share)) if size <= share), default=0)


class Prefix(Allocator):
    """A token of size d keeps its first d values: for scores along ordered axes, such as principal axes.

    Examples:
        >>> scores = torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.1, 0.0]])  # 2 tokens, D = 3
        >>> Prefix().allocate(scores, budget=3).sizes
        tensor([3, 0])
        >>> Prefix().allocate(scores, budget=4).sizes
        tensor([3, 1])
    """

    splits: ClassVar[bool] = True

    def kept(self, scores: Tensor, sizes: Tensor) -> Tensor:
        """Returns ``(V, D)`` bool: the first ``sizes`` positions of each token."""
        return torch.arange(scores.shape[1], device=sizes.device) < sizes.unsqueeze(1)

    def _in_order(self, scores: Tensor) -> Tensor:
        return scores


class TopK(Allocator):
    """A token keeps its values of highest score, at any position; its size is their number."""

    splits: ClassVar[bool] = True

    def kept(self, scores: Tensor, sizes: Tensor) -> Tensor:
        """Returns ``(V, D)`` bool: each token's ``sizes`` positions of highest score, the first of equals."""
        kept = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        places = torch.arange(scores.shape[1], device=scores.device)
        for rows in cached_chunks(*scores.shape):
            order = scores[rows].argsort(dim=1, descending=True, stable=True)
            kept[rows] = kept[rows].scatter(1, order, places < sizes[rows].unsqueeze(1))
        return kept

    def _in_order(self, scores: Tensor) -> Tensor:
        return scores.sort(dim=1, descending=True).values


def _dtype(tensor: Tensor | None) -> torch.dtype | None:
    return None if tensor is None else tensor.dtype
