"""Bands of popularity, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pme_lightning.search import RowInformation
from pme_lightning.search.popularity_bands import BANDS, band_sums


def test_bands_of_popularity_by_hand() -> None:
    # Two fields, three rows; tokens that never occur count as those that occur once.
    frequencies = torch.tensor([[0, 7], [1, 8], [4, 4]])
    gradients = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]], [[2.0, 0.0], [0.0, 3.0]]])
    linear = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
    sums = band_sums(frequencies, gradients, linear)
    assert sums.shape == (3, 2, BANDS)
    assert sums[0, :, :4].tolist() == [[2, 0, 1, 0], [0, 0, 2, 1]]
    assert sums[1, :, :4].tolist() == [[26, 0, 4, 0], [0, 0, 10, 4]]
    assert sums[2, :, :4].tolist() == [[10, 0, 0, 0], [0, 0, 20, 0]]
    assert torch.equal(band_sums(frequencies, gradients), sums[:2])
    squares = torch.stack([gradients[:, field].square().sum(0) for field in range(2)]).double()
    # As if gradients of two values were not alike.
    found = RowInformation.of_sums(
        torch.tensor(3.0).double(),
        squares.diag_embed(),
        torch.tensor([10.0, 20.0]).double(),
        torch.zeros(2, 2).double(),
        sums,
    )
    # Of the first field a row tells (13, 17) / 3, 10 over both; rows of band 0 have 13 of it, of band 2 have 4.
    about = found.of_tokens(0, torch.tensor([0, 4]))
    expected = [(26 + 64 * 10) / (2 + 64) / 10, (4 + 64 * 10) / (1 + 64) / 10]
    for token, ratio in enumerate(expected):
        assert about[token].tolist() == pytest.approx([13 / 3 * ratio, 17 / 3 * ratio])
    first = found.of_tokens(0, torch.tensor([1]), linear=True)
    assert first.tolist() == [[pytest.approx(10 / 3 * (10 + 64 * 10 / 3) / (2 + 64) / (10 / 3))]]
    twice = found.halfway(replace(found, table=found.table.flip(1)))
    assert twice.of_tokens(0, torch.tensor([4]))[0].tolist() == pytest.approx([(13 * 17) ** 0.5 / 3 * expected[1]] * 2)
    assert RowInformation(squares).of_tokens(1, torch.tensor([5]))[0].tolist() == squares[1].tolist()
    huge = band_sums(torch.tensor([[2**31 - 1, 2**31, 2**40]]), torch.ones(1, 3, 1))
    assert [int(row.nonzero()) for row in huge[0]] == [30, 31, 31]
