"""Choosing items under a budget against one plain sort, and sharing a budget among fields."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.search.selection import apportion, select


def sorted_selection(slopes: Tensor, costs: list[int], budget: int, priority: Tensor | None) -> Tensor:
    positions, tokens = slopes.shape
    order = sorted(
        (-float(slopes[k, v]), 0 if priority is None else -float(priority[v]), k, v)
        for k in range(positions)
        for v in range(tokens)
    )
    taken = torch.zeros(positions, tokens, dtype=torch.bool)
    for *_, k, v in order:
        if costs[k] > budget:
            break
        budget -= costs[k]
        taken[k, v] = True
    return taken


@settings(max_examples=200)
@given(st.data())
def test_equals_taking_from_a_sorted_list(data: st.DataObject) -> None:
    positions, tokens = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 7))
    costs = data.draw(st.lists(st.integers(1, 4), min_size=positions, max_size=positions))
    few_values = st.sampled_from([-3.5, -1.0, -0.0, 0.0, 1e-40, 0.25, 1.0, 7.0, 3e38])
    numbers = data.draw(st.lists(few_values, min_size=positions * tokens, max_size=positions * tokens))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    slopes = torch.tensor(numbers, dtype=dtype).view(positions, tokens)
    ranks = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=tokens, max_size=tokens))
    priority = None if ranks is None else torch.tensor(ranks)
    budget = data.draw(st.integers(0, sum(costs) * tokens + 1))
    assert torch.equal(select(slopes, costs, budget, priority), sorted_selection(slopes, costs, budget, priority))


def test_every_sign_and_every_budget() -> None:
    for slopes in itertools.product([-3.5, -1.0, 0.0, 0.25, 3e38], repeat=3):
        row = torch.tensor([slopes])
        for budget in range(4):
            assert torch.equal(select(row, [1], budget), sorted_selection(row, [1], budget, None)), slopes


@pytest.mark.parametrize("budget", [0, 1, 777, 20_000, 59_999, 60_000])
def test_many_items_of_very_different_slopes(budget: int) -> None:
    slopes = torch.rand(6, 10_000, generator=torch.Generator().manual_seed(1)).double() ** 40
    taken = select(slopes, [1] * 6, budget)
    assert int(taken.sum()) == budget
    if 0 < budget < slopes.numel():
        assert slopes[taken].min() > slopes[~taken].max()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.data())
def test_shares_are_whole_proportional_and_never_fall(capacities: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(capacities)))
    shares = apportion(capacities, total)
    assert sum(shares) == total
    assert all(0 <= share <= capacity for share, capacity in zip(shares, capacities, strict=True))
    for share, capacity in zip(shares, capacities, strict=True):
        # No transfer of one value between two fields brings them closer to the same fraction.
        for other, room in zip(shares, capacities, strict=True):
            if share and room:
                assert Fraction(2 * share - 1, capacity) <= Fraction(2 * other + 1, room)
    if total < sum(capacities):
        assert all(a <= b for a, b in zip(shares, apportion(capacities, total + 1), strict=True))
