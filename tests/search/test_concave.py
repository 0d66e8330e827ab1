"""Slopes of the least concave majorant against pool-adjacent-violators in plain Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.search.concave import majorant_slopes


def pool_adjacent_violators(sums: list[int], widths: list[int]) -> list[Fraction]:
    blocks: list[list[int]] = []  # sum, width, number of steps
    for total, width in zip(sums, widths, strict=True):
        blocks.append([total, width, 1])
        while len(blocks) > 1 and Fraction(*blocks[-2][:2]) <= Fraction(*blocks[-1][:2]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return [Fraction(total, width) for total, width, steps in blocks for _ in range(steps)]


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 5)), min_size=1, max_size=12))
def test_equals_pooling_adjacent_violators(steps: list[tuple[int, int]]) -> None:
    sums, widths = [total for total, _ in steps], [width for _, width in steps]
    slopes = majorant_slopes(torch.tensor(sums).unsqueeze(1), widths).squeeze(1)
    assert slopes.tolist() == [float(slope) for slope in pool_adjacent_violators(sums, widths)]


@pytest.mark.parametrize("embedding_dim", [1, 2, 5, 16])
def test_number_of_slopes_above_a_multiplier_is_the_best_size(embedding_dim: int) -> None:
    generator = np.random.default_rng(embedding_dim)
    scores = generator.random((5000, embedding_dim)) ** 6
    slopes = majorant_slopes(torch.from_numpy(scores).T, [1] * embedding_dim).T.numpy()
    gains = np.concatenate([np.zeros((5000, 1)), scores.cumsum(1)], 1)
    for multiplier in (1e-7, 1e-4, 0.01, 0.1, 0.5, 2.0):
        best = (gains - multiplier * np.arange(embedding_dim + 1)).argmax(1)
        assert np.array_equal((slopes > multiplier).sum(1), best)


def test_slopes_fall_exactly_whatever_columns_are_beside_them() -> None:
    scores = torch.rand(8, 7001, generator=torch.Generator().manual_seed(0)) ** 20
    slopes = majorant_slopes(scores, [1] * 8)
    assert slopes.shape == scores.shape
    assert slopes.dtype == torch.float64
    assert bool((slopes[1:] <= slopes[:-1]).all())
    one_by_one = torch.cat([majorant_slopes(scores[:, row : row + 1], [1] * 8) for row in range(0, 7001, 500)], 1)
    assert torch.equal(slopes[:, ::500], one_by_one)
    torch.testing.assert_close(slopes.sum(0), scores.double().sum(0))


def test_falling_rows_are_their_own_slopes() -> None:
    scores = torch.rand(100, 6, generator=torch.Generator().manual_seed(0)).sort(descending=True).values.T
    assert torch.equal(majorant_slopes(scores, [1] * 6), scores.double())
