"""Rounding at random, against bfloat16's neighbours and what it has to be in the mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.sixteen_bits import rounded_at_random, widened

FINITE = st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False)


@given(st.lists(FINITE, max_size=9), st.integers(0, 99))
def test_it_is_one_of_the_two_neighbours(numbers: list[float], seed: int) -> None:
    values = torch.tensor(numbers)
    found = rounded_at_random(values, torch.Generator().manual_seed(seed))
    assert found.dtype == torch.bfloat16
    # Cut off, and the next one away from zero.
    near = (values.view(torch.int32) >> 16 << 16).view(torch.float32)
    far = ((values.view(torch.int32) >> 16 << 16) + (1 << 16)).view(torch.float32)
    assert ((found == near) | ((found == far) & (near != values))).all()


@pytest.mark.parametrize("value", [1.001, -1.001, 3.3e-5, -7e-12, 1e-40, 123456.0])
def test_the_mean_is_the_value(value: float) -> None:
    count = 200_000
    found = rounded_at_random(torch.full((count,), value), torch.Generator().manual_seed(0)).double()
    low, high = found.min().item(), found.max().item()
    assert low < value < high
    # Six standard errors of a mean of numbers that are one or the other.
    assert abs(found.mean().item() - value) < 6 * (high - low) / 2 / count**0.5 + 1e-7 * abs(value)


def test_what_has_16_bits_stays() -> None:
    values = torch.randn(999).to(torch.bfloat16)
    assert torch.equal(rounded_at_random(values.float()), values)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf")])
    assert rounded_at_random(special).view(torch.int16).tolist() == special.bfloat16().view(torch.int16).tolist()
    assert rounded_at_random(torch.tensor([float("nan")])).isnan().all()


@given(st.integers(0, 9), st.integers(0, 5))
def test_shapes_and_views(rows: int, columns: int) -> None:
    values = torch.randn(columns, rows).T
    found = rounded_at_random(values)
    assert found.shape == (rows, columns)
    torch.testing.assert_close(found.float(), values, rtol=2**-7, atol=0)


def test_chance_is_the_generators() -> None:
    values = torch.randn(1001)
    one, same, other = (rounded_at_random(values, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_wide_values_stay_as_they_are() -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.zeros(2, dtype=dtype)
        assert widened(values) is values
    assert widened(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32
