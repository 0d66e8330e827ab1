"""Values in few bits, against whole numbers and scales worked out by hand or one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.export.packed import LEVELS, Parts, errors, read, scales_of, stored


def one_part(values: list[float], groups: list[int] | None = None, weights: list[float] | None = None) -> Parts:
    """Rows of one value each."""
    given = (values, groups or [0] * len(values), weights or [1.0] * len(values))
    return lambda: [tuple(torch.tensor(each).unsqueeze(1) for each in given)]


def test_eight_bits_by_hand() -> None:
    parts = one_part([1.27, -1.27, 0.5, 0.004, 0.006])
    scales = scales_of(parts, 1, 8)
    assert scales == pytest.approx([0.01])
    kept = stored(parts, scales, 8)
    assert kept.dtype == torch.int8
    assert kept.tolist() == [127, -127, 50, 0, 1]
    assert read(kept, torch.tensor([4, 0]), 8).tolist() == [1.0, 127.0]


def test_four_bits_are_two_to_a_byte_also_where_one_is_left() -> None:
    levels = LEVELS.tolist()
    parts = one_part([2.0, -2.0, 0.0, 2 * levels[9], 2 * levels[3]])
    scales = scales_of(parts, 1, 4)
    assert scales.tolist() == [2.0]
    kept = stored(parts, scales, 4)
    assert kept.tolist() == [15 | 0 << 4, 7 | 9 << 4, 3]
    assert read(kept, torch.arange(5), 4).tolist() == [1.0, -1.0, 0.0, levels[9], levels[3]]


def test_the_levels_are_the_published_ones() -> None:
    """As they are made: quantiles of the normal distribution on either side of zero, brought to -1 ... 1."""
    ends = 0.9677083
    normal = torch.distributions.Normal(0.0, 1.0)
    positive = normal.icdf(torch.linspace(ends, 0.5, 9)[:-1])
    negative = -normal.icdf(torch.linspace(ends, 0.5, 8)[:-1])
    made = torch.cat([negative, torch.zeros(1), positive.flip(0)])
    assert torch.allclose(LEVELS, made / made.max(), atol=1e-5)


def test_a_group_has_a_scale_of_its_own() -> None:
    scales = scales_of(one_part([127.0, 1.27, -63.5], [0, 1, 0]), 3, 8)
    assert scales[:2].tolist() == pytest.approx([1.0, 0.01])
    assert scales[2] > 0  # of a group of nothing, but finite


def test_the_ends_give_way_where_the_middle_counts() -> None:
    values, groups = [10.0] + [0.3] * 2000, [0] * 2001
    # One large value among many small ones, which a scale of 10 would round away.
    assert scales_of(one_part(values, groups), 1, 4).item() < 10.0
    heavy = scales_of(one_part(values, groups, [1e6] + [1.0] * 2000), 1, 4)
    assert heavy.item() == 10.0


def test_what_rounding_costs_a_row_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.1], [0.0, -1.0]]), torch.zeros(2, 2, dtype=torch.long), torch.tensor([[3.0], [1.0]])
    (lost,) = errors(lambda: [rows], torch.tensor([1.0]), 4)
    # 0.1 becomes 0.0795803, three times; the others are levels.
    assert lost.tolist() == pytest.approx([3 * (0.1 - 0.0795803) ** 2, 0.0], rel=1e-4)
    (lost,) = errors(lambda: [rows], torch.tensor([0.5]), 8)
    assert lost.tolist() == pytest.approx([3 * 0.01, 0.0])


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_and_next_to_nothing_read_as_zeros(bits: int) -> None:
    parts = one_part([0.0, 1e-40, -1e-44])
    scales = scales_of(parts, 1, bits)
    assert (read(stored(parts, scales, bits), torch.arange(3), bits) * scales).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("bits", "dtype"), [(32, torch.float32), (16, torch.float16)])
def test_sixteen_bits_and_more_need_no_scale(bits: int, dtype: torch.dtype) -> None:
    kept = stored(one_part([0.1, -2.5]), None, bits)
    assert kept.dtype == dtype
    assert read(kept, torch.tensor([1, 0]), bits).tolist() == pytest.approx([-2.5, 0.1], abs=1e-4)


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_nothing_at_all_is_stored_as_nothing(bits: int) -> None:
    scales = scales_of(list, 2, bits) if bits < 16 else None
    assert len(stored(list, scales, bits)) == 0


def plain(values: Tensor, scale: float, bits: int) -> Tensor:
    """Each value as the nearest number that there is, found by looking at all of them."""
    numbers = (torch.arange(-128, 128) if bits == 8 else LEVELS) * scale
    return torch.stack([numbers[(numbers - value).abs().argmin()] for value in values])


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), groups=st.integers(1, 4), bits=st.sampled_from([8, 4]))
def test_no_group_errs_more_than_with_the_scale_that_reaches_its_largest(
    seed: int, count: int, groups: int, bits: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator) * 10 ** torch.randn(1, generator=generator)
    group = torch.randint(groups, (count,), generator=generator)
    weight = torch.rand(count, generator=generator).double() + 0.1
    cut = count // 2

    def parts() -> list[tuple[Tensor, Tensor, Tensor]]:
        rows = values.unsqueeze(1), group.unsqueeze(1), weight.unsqueeze(1)
        return [tuple(each[:cut] for each in rows), tuple(each[cut:] for each in rows)]

    scales = scales_of(parts, groups, bits)
    found = read(stored(parts, scales, bits), torch.arange(count), bits) * scales[group]
    for g in range(groups):
        own = group == g
        if own.any():
            reaching = float(values[own].abs().max()) / (127 if bits == 8 else 1)
            errors = (found[own] - values[own]).square() * weight[own]
            most = (plain(values[own], reaching, bits) - values[own]).square() * weight[own]
            # Scales are compared by bins of values, 2,048 to the largest: each value may be half a bin off, twice.
            slack = float(values[own].abs().max()) / 2048 * float(weight[own].sum().sqrt())
            assert errors.sum().sqrt() <= most.sum().sqrt() + slack * (1 + 1e-3)
            nearest = (plain(values[own], float(scales[g]), bits) - values[own]).abs()
            assert ((found[own] - values[own]).abs() <= nearest + 1e-4 * scales[g]).all()
