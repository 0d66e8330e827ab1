"""Sizes by field: mask saliency against automatic differentiation, whole fields within the budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search import FieldPopularity, FieldSaliency, FieldSizes

FIELDS = [3, 1, 5]
V, D = sum(FIELDS), 4


def per_field(values: Tensor) -> list[Tensor]:
    """One row a field, after checking that all its tokens have the same."""
    parts = values.split(FIELDS)
    for part in parts:
        assert (part == part[0]).all()
    return [part[0] for part in parts]


def masked_loss(weight: Tensor, linear: Tensor, mask: Tensor, linear_mask: Tensor, ids: Tensor) -> Tensor:
    """Something that is not linear in the embeddings, of masked fields."""
    fields = torch.tensor(FIELDS)
    rows = (weight * mask.repeat_interleave(fields, 0))[ids]
    first = (linear * linear_mask.repeat_interleave(fields, 0))[ids]
    return torch.tanh(rows).prod(1).sum(1).add(first.sum((1, 2)).sin()).mean()


@pytest.mark.parametrize("sparse", [False, True])
def test_saliency_is_the_gradient_of_a_mask(sparse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(V, D, generator=generator)
    linear = torch.randn(V, 1, generator=generator)
    offsets = torch.tensor([0, 3, 4])
    batches = [
        torch.stack([torch.randint(0, n, (6,), generator=generator) for n in FIELDS], 1) + offsets for _ in range(3)
    ]
    mask, linear_mask = torch.ones(len(FIELDS), D, requires_grad=True), torch.ones(len(FIELDS), 1, requires_grad=True)
    sum(masked_loss(weight, linear, mask, linear_mask, ids) for ids in batches).backward()
    total = mask.grad.abs().sum() + linear_mask.grad.abs().sum()

    criterion = FieldSaliency()
    criterion.field_tokens = FIELDS
    criterion.start(weight, linear, torch.ones(V))
    for ids in batches:
        copies = weight.clone().requires_grad_(), linear.clone().requires_grad_()
        masked_loss(*copies, torch.ones(len(FIELDS), D), torch.ones(len(FIELDS), 1), ids).backward()
        criterion.update(*(copy.grad.to_sparse(1) if sparse else copy.grad for copy in copies))
    scores = criterion.scores(weight, linear, torch.ones(V))
    assert torch.allclose(torch.stack(per_field(scores.table)), mask.grad.abs() / total, atol=1e-6)
    assert torch.allclose(torch.stack(per_field(scores.linear)), linear_mask.grad[:, 0].abs() / total, atol=1e-6)
    assert scores.basis is None


def test_saliency_of_nothing_is_zero() -> None:
    criterion = FieldSaliency()
    criterion.field_tokens = FIELDS
    criterion.start(torch.ones(V, D), None, torch.ones(V))
    scores = criterion.scores(torch.ones(V, D), None, torch.ones(V))
    assert not scores.table.any()
    assert scores.linear is None


@pytest.mark.parametrize("criterion", [FieldSaliency(), FieldPopularity()])
def test_fields_must_be_known(criterion: FieldSaliency | FieldPopularity) -> None:
    criterion.start(torch.ones(V, D), None, torch.ones(V))
    with pytest.raises(RuntimeError, match="field_tokens add up to 0, there are 9 tokens"):
        criterion.scores(torch.ones(V, D), None, torch.ones(V))


def spread(by_field: list[list[float]]) -> Tensor:
    return torch.tensor(by_field).repeat_interleave(torch.tensor(FIELDS), 0)


def sizes(scores: Tensor, budget: int, linear: Tensor | None = None) -> tuple[list[int], list[bool] | None]:
    found = FieldSizes().allocate(scores, budget, linear, field_tokens=FIELDS)
    first = None if found.linear is None else [bool(part) for part in per_field(found.linear)]
    return [int(part) for part in per_field(found.sizes)], first


def test_pairs_are_taken_by_worth_and_passed_over_where_they_do_not_fit() -> None:
    scores = spread([[6.0, 0.0, 0.0, 3.0], [1.0, 2.0, 0.5, 0.4], [9.0, 5.0, 8.0, 7.0]])
    # 9 and 8 take five values each, 7 no longer fits, 6 takes three, then 2 one: fourteen.
    assert sizes(scores, 14) == ([1, 1, 2], None)
    assert sizes(scores, 9) == ([1, 1, 1], None)
    assert sizes(scores, 4) == ([1, 1, 0], None)
    assert sizes(scores, V * D) == ([4, 4, 4], None)


def test_first_order_weights_of_a_field_compete_as_one_pair() -> None:
    scores = spread([[6.0, 0.0, 0.0, 3.0], [1.0, 2.0, 0.5, 0.4], [9.0, 5.0, 8.0, 7.0]])
    linear = torch.tensor([6.5, 0.0, 0.1]).repeat_interleave(torch.tensor(FIELDS))
    assert sizes(scores, 14, linear) == ([0, 1, 2], [True, False, False])


def test_a_field_is_worth_the_mean_of_its_tokens() -> None:
    scores = torch.zeros(V, D)
    scores[0, 2], scores[3, 0], scores[4, 1] = 6.0, 3.0, 5.0  # means 2, 3 and 1
    assert sizes(scores, 4) == ([1, 1, 0], None)


@given(
    by_field=st.lists(st.lists(st.floats(0, 1, width=32), min_size=D, max_size=D), min_size=3, max_size=3),
    linear=st.none() | st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    budget=st.integers(1, V * (D + 1)),
)
def test_the_budget_is_used_as_far_as_fields_fit(
    by_field: list[list[float]], linear: list[float] | None, budget: int
) -> None:
    first = None if linear is None else torch.tensor(linear).repeat_interleave(torch.tensor(FIELDS))
    found, kept = sizes(spread(by_field), budget, first)
    owned = [size + bool(kept and kept[field]) for field, size in enumerate(found)]
    spent = sum(n * values for n, values in zip(FIELDS, owned, strict=True))
    left_out = [n for n, size in zip(FIELDS, found, strict=True) if size < D]
    left_out += [n for field, n in enumerate(FIELDS) if kept is not None and not kept[field]]
    assert spent <= budget
    assert all(n > budget - spent for n in left_out)


def test_a_budget_below_the_smallest_field_is_refused() -> None:
    with pytest.raises(BadInput, match=r"the budget leaves 2 values .* smallest field takes 3"):
        FieldSizes().allocate(torch.ones(8, D), 2, field_tokens=[3, 5])
    with pytest.raises(BadInput, match=r"the budget leaves 2 values .* smallest field takes 3"):
        FieldSizes().check_sizes(8, D, 2, field_tokens=[3, 5])
    FieldSizes().check_sizes(8, D, 3, field_tokens=[3, 5])


@pytest.mark.parametrize("fields", [None, [3, 5]])
def test_wrong_fields_are_refused(fields: list[int] | None) -> None:
    with pytest.raises(BadInput, match="field_tokens must add up to the 9 tokens"):
        FieldSizes().allocate(torch.ones(V, D), 9, field_tokens=fields)
