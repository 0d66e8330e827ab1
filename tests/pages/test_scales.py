"""Axes: every value is on them, ticks are round and within."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.pages.scales import linear_axis, log_axis, percent, round_step

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6)


@given(values)
def test_a_linear_axis_holds_its_values(numbers: list[float]) -> None:
    axis = linear_axis("x", numbers)
    assert all(-1e-6 <= axis.place(number) <= 1 + 1e-6 for number in numbers)
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 8
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)
    steps = [later - before for before, later in pairwise(axis.ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)


@given(st.floats(0.5, 0.99), st.floats(1e-5, 0.2))
def test_ticks_that_differ_are_written_differently(low: float, width: float) -> None:
    axis = linear_axis("AUC", [low, low + width])
    written = [axis.format(tick) for tick in axis.ticks]
    assert len(set(written)) == len(written)
    assert [float(text) for text in written] == pytest.approx(axis.ticks, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "ticks"),
    [
        ({"values": [0.0, 3.0], "low": 0.0}, ["0", "1", "2", "3"]),
        ({"values": [0.0, 1.0], "low": 0.0, "high": 1.0, "percent": True}, ["0%", "25%", "50%", "75%", "100%"]),
        ({"values": [0.0, 0.024], "percent": True}, ["0%", "1%", "2%", "3%"]),
        ({"values": [0.0, 2.0], "whole": True}, ["0", "1", "2"]),
        ({"values": [], "low": 0.0, "high": 16.0}, ["0", "5", "10", "15"]),
        ({"values": [0.7, 0.7]}, ["0.690", "0.695", "0.700", "0.705", "0.710"]),
    ],
)
def test_ticks_by_hand(options: dict, ticks: list[str]) -> None:
    axis = linear_axis("x", **options)
    assert [axis.format(tick) for tick in axis.ticks] == ticks


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6))
def test_a_logarithmic_axis_holds_its_values(numbers: list[float]) -> None:
    axis = log_axis("kept", numbers, percent)
    assert all(0 <= axis.place(number) <= 1 for number in numbers)
    assert 2 <= len(axis.ticks) <= 8
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in axis.ticks)


def test_equal_factors_are_equal_steps() -> None:
    axis = log_axis("kept", [0.01, 0.1, 1.0], percent)
    assert axis.place(0.1) - axis.place(0.01) == pytest.approx(axis.place(1.0) - axis.place(0.1))


@given(st.floats(1e-12, 1e12))
def test_steps_are_round_and_not_smaller(step: float) -> None:
    found = round_step(step)
    assert step * (1 - 1e-6) <= found <= step * 2.5 * (1 + 1e-6)
    assert found / 10 ** math.floor(math.log10(found) + 1e-9) in (
        pytest.approx(1),
        pytest.approx(2),
        pytest.approx(2.5),
        pytest.approx(5),
    )
