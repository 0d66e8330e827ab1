"""The simple rules give the sizes that their names promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search import Allocation, Control, FieldPopularity, FieldSizes, Popularity, Prefix, Random, Uniform

D = 8
WEIGHT = torch.zeros(6, D)
LINEAR = torch.zeros(6, 1)
FREQUENCIES = torch.tensor([0, 400, 100, 900, 1600, 100])


def allocate(control: Control, budget: int, linear: Tensor | None = None) -> Allocation:
    scores = control.scores(WEIGHT, linear, FREQUENCIES)
    assert scores.basis is None
    return Prefix().allocate(scores.table, budget, scores.linear, priority=FREQUENCIES)


def test_uniform_gives_the_rest_to_the_most_frequent() -> None:
    assert allocate(Uniform(), 18).sizes.tolist() == [3, 3, 3, 3, 3, 3]
    assert allocate(Uniform(), 20).sizes.tolist() == [3, 3, 3, 4, 4, 3]


def test_uniform_counts_the_first_order_weight() -> None:
    found = allocate(Uniform(), 21, LINEAR)
    assert found.linear is not None
    assert found.linear.all()
    assert found.sizes.tolist() == [2, 3, 2, 3, 3, 2]


def test_popularity_is_proportional_to_the_root() -> None:
    # Roots 0, 20, 10, 30, 40, 10: sizes of 2 a 10.
    assert allocate(Popularity(alpha=0.5), 22).sizes.tolist() == [0, 4, 2, 6, 8, 2]
    # Frequencies in hundreds, the largest cut off at D.
    assert allocate(Popularity(alpha=1.0), 22).sizes.tolist() == [0, 4, 1, 8, 8, 1]
    assert torch.equal(allocate(Popularity(alpha=0.0), 20).sizes, allocate(Uniform(), 20).sizes)


def test_popularity_with_first_order_weights() -> None:
    # The same shares as without, of which the first-order weight is the first value.
    found = allocate(Popularity(alpha=0.5), 22, LINEAR)
    assert found.linear is not None
    assert found.linear.tolist() == [False, True, True, True, True, True]
    assert found.sizes.tolist() == [0, 3, 1, 5, 7, 1]
    found = allocate(Popularity(alpha=0.5), 11, LINEAR)
    assert found.sizes.tolist() == [0, 1, 0, 2, 3, 0]


def test_embedding_values_may_come_before_the_first_order_weight() -> None:
    found = allocate(Popularity(alpha=0.5, first_order="last"), 22, LINEAR)
    assert found.linear is not None
    assert not found.linear.any()
    assert found.sizes.tolist() == [0, 4, 2, 6, 8, 2]
    found = allocate(Uniform(first_order="last"), 6 * D + 2, LINEAR)
    assert found.sizes.tolist() == [D] * 6
    assert found.linear.tolist() == [False, False, False, True, True, False]
    with pytest.raises(BadInput, match="Uniform: first_order 'lst' is unknown; did you mean 'last'"):
        Uniform(first_order="lst")  # type: ignore[arg-type]


def test_random_repeats_with_its_seed() -> None:
    sizes = [allocate(Random(seed=seed), 20).sizes for seed in (0, 0, 1)]
    assert torch.equal(sizes[0], sizes[1])
    assert not torch.equal(sizes[0], sizes[2])
    assert int(sizes[0].sum()) == 20


def test_random_follows_its_numbers_not_the_frequencies() -> None:
    frequencies = torch.arange(2000)
    control = Random(seed=3)
    scores = control.scores(torch.zeros(2000, 16), None, frequencies)
    sizes = Prefix().allocate(scores.table, 8000, priority=frequencies).sizes.double()
    assert torch.corrcoef(torch.stack([sizes, control.value(frequencies)]))[0, 1] > 0.95
    assert torch.corrcoef(torch.stack([sizes, frequencies.double()]))[0, 1].abs() < 0.1


def by_field(fields: list[int], budget: int, alpha: float, dim: int = D, linear: bool = False) -> list[int]:
    """What the rule gives the tokens of each field, first-order weights included."""
    control, tokens = FieldPopularity(alpha), sum(fields)
    control.field_tokens = fields
    column = torch.zeros(tokens, 1) if linear else None
    scores = control.scores(torch.zeros(tokens, dim), column, torch.ones(tokens))
    found = FieldSizes().allocate(scores.table, budget, scores.linear, field_tokens=fields)
    owned = found.sizes if found.linear is None else found.sizes + found.linear
    assert all((part == part[0]).all() for part in owned.split(fields))
    assert int(owned.sum()) <= budget
    assert found.linear is None or (found.linear | (found.sizes == 0)).all()
    return [int(part[0]) for part in owned.split(fields)]


def test_field_popularity_by_hand() -> None:
    # Probabilities 1/4, 1/16, 1/64: roots 1/2, 1/4, 1/8. Sizes 4, 2, 1 take 16 + 32 + 64 values.
    assert by_field([4, 16, 64], 112, alpha=0.5) == [4, 2, 1]
    assert by_field([4, 16, 64], 112, alpha=0.5, linear=True) == [4, 2, 1]
    # One a token first, the most probable field first; the largest is left out where it does not fit.
    assert by_field([4, 16, 64], 84, alpha=0.5) == [1, 1, 1]
    assert by_field([4, 16, 64], 20, alpha=0.5) == [1, 1, 0]
    assert by_field([4, 16, 64], 4, alpha=0.5) == [1, 0, 0]
    # alpha 0 is uniform.
    assert by_field([4, 16, 64], 3 * 84, alpha=0.0) == [3, 3, 3]


@given(
    fields=st.lists(st.integers(1, 2000), min_size=1, max_size=8),
    alpha=st.floats(0, 1),
    multiplier=st.floats(0.5, 20),
)
def test_field_popularity_rounds_the_proportional_sizes(fields: list[int], alpha: float, multiplier: float) -> None:
    # The reference: round to the nearest, at least 1, as the paper does; then the budget is what that takes.
    exact = [multiplier * (min(fields) / tokens) ** alpha for tokens in fields]
    assume(all(abs(size % 1 - 0.5) > 1e-3 for size in exact))
    rounded = [max(1, round(size)) for size in exact]
    budget = sum(size * tokens for size, tokens in zip(rounded, fields, strict=True))
    assert by_field(fields, budget, alpha, dim=24) == rounded


@pytest.mark.parametrize("control", [Popularity, FieldPopularity])
@pytest.mark.parametrize("alpha", [-0.5, float("nan"), float("inf")])
def test_wrong_alpha(control: type, alpha: float) -> None:
    with pytest.raises(BadInput, match=f"^{control.__name__}: alpha"):
        control(alpha=alpha)
