"""Rounding at random, against bfloat16's neighbours and what it has to be in the mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.sixteen_bits import Chance, rounded_at_random, widened

FINITE = st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False)


@given(st.lists(FINITE, max_size=9), st.integers(0, 99))
def test_it_is_one_of_the_two_neighbours(numbers: list[float], seed: int) -> None:
    values = torch.tensor(numbers)
    found = rounded_at_random(values, Chance(seed))
    assert found.dtype == torch.bfloat16
    # Cut off, and the next one away from zero.
    near = (values.view(torch.int32) >> 16 << 16).view(torch.float32)
    far = ((values.view(torch.int32) >> 16 << 16) + (1 << 16)).view(torch.float32)
    assert ((found == near) | ((found == far) & (near != values))).all()


@pytest.mark.parametrize("value", [1.001, -1.001, 3.3e-5, -7e-12, 1e-40, 123456.0])
def test_the_mean_is_the_value(value: float) -> None:
    count = 200_000
    found = rounded_at_random(torch.full((count,), value), Chance(0)).double()
    low, high = found.min().item(), found.max().item()
    assert low < value < high
    # Six standard errors of a mean of numbers that are one or the other.
    assert abs(found.mean().item() - value) < 6 * (high - low) / 2 / count**0.5 + 1e-7 * abs(value)


def test_what_has_16_bits_stays() -> None:
    values = torch.randn(999).to(torch.bfloat16)
    assert torch.equal(rounded_at_random(values.float(), Chance(0)), values)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf")])
    found = rounded_at_random(special, Chance(0))
    assert found.view(torch.int16).tolist() == special.bfloat16().view(torch.int16).tolist()
    assert rounded_at_random(torch.tensor([float("nan")]), Chance(0)).isnan().all()


@given(st.integers(0, 9), st.integers(0, 5))
def test_shapes_and_views(rows: int, columns: int) -> None:
    values = torch.randn(columns, rows).T
    found = rounded_at_random(values, Chance(0))
    assert found.shape == (rows, columns)
    torch.testing.assert_close(found.float(), values, rtol=2**-7, atol=0)


def test_chance_is_that_of_the_seed() -> None:
    values = torch.randn(1001)
    one, same, other = (rounded_at_random(values, Chance(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_noise_is_drawn_once_and_all_numbers_are_as_likely() -> None:
    chance = Chance(3)
    noise = chance.noise(1 << 20)
    assert torch.equal(chance.noise(99), noise[:99])
    assert 0 <= noise.min() < 8
    assert (1 << 16) - 8 < noise.max() < 1 << 16
    counts = torch.bincount(noise >> 8, minlength=256)
    # 4,096 each, give or take 64.
    assert (counts - 4096).abs().max() < 6 * 64


def test_wide_values_stay_as_they_are() -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.zeros(2, dtype=dtype)
        assert widened(values) is values
    assert widened(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32
