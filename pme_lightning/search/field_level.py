"""Sizes by field: all tokens of a field have the same size, as in methods that search one dimension per field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pme_lightning.embedding.fields import field_slices, for_each_token
from pme_lightning.embedding.row_chunks import row_chunks
from pme_lightning.errors import BadInput
from pme_lightning.search.across import ALONE, Tokens
from pme_lightning.search.allocators import Allocation, TopK
from pme_lightning.search.criterion import KnowsFields, Scores
from pme_lightning.search.gradient_criteria import Saliency


class FieldSaliency(KnowsFields, Saliency):
    """Saliency of each dimension of each field: SSEDS (Qu et al., SIGIR 2022, arXiv:2204.03281).

    Every (field, dimension) pair has a mask of 1. Its saliency is the first-order change of the loss when the mask
    becomes 0: ``|∂L/∂mask_fk| = |Σ_{v in f} w_vk · Σ_batches g_vk|``, divided by the sum over all pairs. This is exact
    if weights are frozen while gradients are gathered (:class:`~pme_lightning.search.SingleShot`). All tokens of a
    field get the field's scores, as :class:`FieldSizes` expects.

    The paper has no first-order weights. Here, those of a field are one more pair, ``|Σ_{v in f} l_v · Σ_batches
    g_v|``, which competes with the others.
    """

    splits: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(power=1)

    @torch.no_grad()
    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        gradients, linear_gradients = self._sums(linear)
        fields = self._fields(len(weight))
        table = _by_field(weight, gradients, fields)
        column = None if linear is None or linear_gradients is None else _by_field(linear, linear_gradients, fields)
        total = table.sum() if column is None else table.sum() + column.sum()
        scale = 1 / total if total > 0 else total
        return Scores(
            table=for_each_token((table * scale).to(weight.dtype), fields),
            linear=None if column is None else for_each_token((column[:, 0] * scale).to(weight.dtype), fields),
        )


def _by_field(weight: Tensor, gradients: Tensor, field_tokens: Sequence[int]) -> Tensor:
    """Returns ``(F, K)`` float64: ``|Σ_v w_vk g_vk|`` over the tokens of each field."""
    sums = weight.new_zeros(len(field_tokens), weight.shape[1], dtype=torch.float64)
    for total, own in zip(sums, field_slices(field_tokens), strict=True):
        for part in row_chunks(own.start, own.stop):
            total += (weight[part].double() * gradients[part].double()).sum(0)
    return sums.abs_()


class FieldSizes(TopK):
    """One size for all tokens of a field: the number of its dimensions that are kept.

    A (field, dimension) pair is worth the mean score of its tokens, and costs one value for each token of the field.
    The first-order weights of a field are one more pair. Pairs are taken in order of falling worth; a pair that no
    longer fits is skipped. So the rest of the budget is less than the cost of any pair that was not taken. Ties go to
    the cheaper pair. Unlike with other allocators, a larger budget may make the size of some field smaller: a pair that
    was skipped before may take its place.
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
        of_fields = torch.tensor(sizes, device=scores.device), torch.tensor(linear, device=scores.device)
        of_tokens = [for_each_token(each, field_tokens) for each in of_fields]
        return Allocation(of_tokens[0], None if linear_scores is None else of_tokens[1])

    def check_sizes(
        self, num_tokens: int, embedding_dim: int, budget: int, field_tokens: Sequence[int] | None = None
    ) -> None:
        """Checks that a pair fits; arguments as in :class:`~pme_lightning.search.Allocator`.

        Raises:
            BadInput: not a single pair fits.
        """
        super().check_sizes(num_tokens, embedding_dim, budget, field_tokens)
        if field_tokens and budget < min(field_tokens):
            raise BadInput(
                f"FieldSizes: the budget leaves {budget} values to tokens, and one value for each token of the "
                f"smallest field takes {min(field_tokens)}: raise search.budget, or choose a search of sizes by token"
            )
