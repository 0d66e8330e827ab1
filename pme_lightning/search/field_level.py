"""Sizes by field: every token of a field has the same size, as in methods that search one dimension a field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search.across import ALONE, Tokens
from pme_lightning.search.allocators import Allocation, TopK
from pme_lightning.search.criteria import Saliency, Scores
from pme_lightning.search.schedules import Action, Schedule

# Rows worked on at a time, so that no intermediate result is as large as the table.
_CHUNK_ROWS = 1 << 15


class KnowsFields:
    """A criterion that looks at fields; the search tells it of them before anything else.

    Attributes:
        field_tokens: the number of tokens of each field, whose ids lie side by side.
    """

    field_tokens: Sequence[int] = ()

    def _fields(self, num_tokens: int) -> Sequence[int]:
        if sum(self.field_tokens) != num_tokens:
            raise RuntimeError(
                f"{type(self).__name__}: field_tokens add up to {sum(self.field_tokens)}, there are {num_tokens} "
                "tokens; set them before start and scores"
            )
        return self.field_tokens


class FieldSaliency(KnowsFields, Saliency):
    """Saliency of each dimension of each field: SSEDS (Qu et al., SIGIR 2022, arXiv:2204.03281).

    Every (field, dimension) pair is given a mask of 1. Its saliency is the change of the loss, to first order, when
    the mask becomes 0: ``|∂L/∂mask_fk| = |Σ_{v in f} w_vk · Σ_batches g_vk|``, divided by the sum over all pairs. It
    is exact for weights that stay as they are while gradients are gathered (:class:`SingleShot`). All tokens of a
    field get the field's scores, which is what :class:`FieldSizes` takes.

    The paper has no first-order weights: here those of a field are one further pair, ``|Σ_{v in f} l_v · Σ_batches
    g_v|``, that competes with the others.
    """

    splits: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(power=1)

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        gradients, linear_gradients = self._sums()
        if linear_gradients is not None and linear is None:
            raise ValueError("the first-order weights given to start are missing")
        fields = list(self._fields(len(weight)))
        table = _by_field(weight, gradients, fields)
        column = None if linear is None or linear_gradients is None else _by_field(linear, linear_gradients, fields)
        total = table.sum() if column is None else table.sum() + column.sum()
        scale = 1 / total if total > 0 else total
        tokens = torch.tensor(fields, device=weight.device)
        return Scores(
            table=(table * scale).to(weight.dtype).repeat_interleave(tokens, dim=0),
            linear=None if column is None else (column[:, 0] * scale).to(weight.dtype).repeat_interleave(tokens),
        )


def _by_field(weight: Tensor, gradients: Tensor, field_tokens: Sequence[int]) -> Tensor:
    """Returns ``(F, K)`` float64: ``|Σ_v w_vk g_vk|`` over the tokens of each field."""
    sums = weight.new_zeros(len(field_tokens), weight.shape[1], dtype=torch.float64)
    for field, (rows, slopes) in enumerate(
        zip(weight.split(list(field_tokens)), gradients.split(list(field_tokens)), strict=True)
    ):
        for part, slope in zip(rows.split(_CHUNK_ROWS), slopes.split(_CHUNK_ROWS), strict=True):
            sums[field] += (part.double() * slope.double()).sum(0)
    return sums.abs_()


class SingleShot(Schedule):
    """Trains, then scores on a few batches while nothing moves, then prunes once.

    Args:
        epochs: length of the training; may be a part of an epoch.
        batches: how many batches are scored.

    Raises:
        BadInput: an argument is out of range.
    """

    def __init__(self, epochs: float = 1.0, batches: int = 50) -> None:
        if not math.isfinite(epochs) or epochs <= 0:
            raise BadInput(f"SingleShot: epochs is {epochs}; it must be above 0")
        if batches < 1:
            raise BadInput(f"SingleShot: batches is {batches}; it must be 1 or more")
        self.epochs = epochs
        self.batches = batches

    def num_steps(self, steps_per_epoch: int) -> int:
        return max(1, round(self.epochs * steps_per_epoch)) + self.batches

    def _action(self, step: int, num_steps: int) -> Action:
        first = num_steps - self.batches
        if step < first:
            return Action()
        return Action(frozen=True, start=step == first, score=True, prune=1.0 if step == num_steps - 1 else None)


class FieldSizes(TopK):
    """One size for all tokens of a field: the count of its dimensions that are kept.

    A (field, dimension) pair is worth what its tokens' scores are on average, and costs one value for each token of
    the field. Pairs are taken by falling worth, a field's first-order weights being a pair of their own; a pair that
    no longer fits is passed over, so that the budget is used as far as whole fields can use it: what is left is less
    than the cost of any pair that was not taken. Ties go to the cheaper pair. Unlike those of the other allocators,
    the sizes of a larger budget may be smaller in some field: a pair passed over before may take its place.
    """

    splits: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()

    def allocate(
        self,
        scores: Tensor,
        budget: int,
        linear_scores: Tensor | None = None,
        priority: Tensor | None = None,
        field_tokens: Sequence[int] | None = None,
        tokens: Tokens = ALONE,
    ) -> Allocation:
        """Shares out ``budget`` values; arguments as in :class:`~pme_lightning.search.Allocator`.

        Raises:
            BadInput: a score is not finite, shapes disagree, or not a single pair fits.
        """
        if field_tokens is None or sum(field_tokens) != len(scores):
            raise BadInput(f"FieldSizes: field_tokens must add up to the {len(scores)} tokens, got {field_tokens}")
        self._check(scores, budget, linear_scores, priority, field_tokens, tokens)
        by_field = [part.mean(0, dtype=torch.float64).tolist() for part in scores.split(list(field_tokens))]
        pairs = [
            (-worth, tokens, position, field)
            for field, tokens in enumerate(field_tokens)
            for position, worth in enumerate(by_field[field])
        ]
        if linear_scores is not None:
            linear_of = [part.mean(dtype=torch.float64).item() for part in linear_scores.split(list(field_tokens))]
            pairs += [(-linear_of[field], tokens, -1, field) for field, tokens in enumerate(field_tokens)]
        sizes, linear = [0] * len(field_tokens), [False] * len(field_tokens)
        left = budget
        for _, cost, position, field in sorted(pairs):
            if cost > left:
                continue
            left -= cost
            if position < 0:
                linear[field] = True
            else:
                sizes[field] += 1
        tokens_of = torch.tensor(field_tokens, device=scores.device)
        return Allocation(
            sizes=torch.tensor(sizes, device=scores.device).repeat_interleave(tokens_of),
            linear=None
            if linear_scores is None
            else torch.tensor(linear, device=scores.device).repeat_interleave(tokens_of),
        )

    def check_sizes(
        self, num_tokens: int, embedding_dim: int, budget: int, field_tokens: Sequence[int] | None = None
    ) -> None:
        """Checks that a pair fits; arguments as in :class:`~pme_lightning.search.Allocator`.

        Raises:
            BadInput: not a single one does.
        """
        super().check_sizes(num_tokens, embedding_dim, budget, field_tokens)
        if field_tokens and budget < min(field_tokens):
            raise BadInput(
                f"FieldSizes: the budget leaves {budget} values to tokens, and one value for each token of the "
                f"smallest field takes {min(field_tokens)}: raise search.budget, or choose a search of sizes by token"
            )
