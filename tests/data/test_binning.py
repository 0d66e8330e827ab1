"""Bins against numpy on whole columns and against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.data.binning import QuantileSample, log2_bins, quantile_bins


def test_log2_rule_by_hand() -> None:
    values = pl.Series([None, -3.0, -1.0, 0.0, 1.0, 2.0, 3.0, 10.0, 1000.0, 1.7])
    expected = [None, -3, -1, 0, 1, 2, 1, 5, 47, 1]
    assert expected[6:9] == [math.floor(math.log(x) ** 2) for x in (3, 10, 1000)]
    assert log2_bins(values).to_list() == expected


def test_log2_rule_without_bounds() -> None:
    bins = log2_bins(pl.Series([math.inf, -math.inf, None, -1e300, 1e300]))
    assert bins.to_list() == [None, None, None, -(2**63), math.floor(math.log(1e300) ** 2)]


def test_few_distinct_values_get_a_bin_each() -> None:
    sample = QuantileSample()
    values = np.array([0.0] * 50 + [1.0] * 30 + [7.0] * 20)
    sample.add(values)
    bins = quantile_bins(pl.Series([0.0, 1.0, 7.0, None, -5.0, 99.0]), sample.edges(10)).to_list()
    assert len({*bins[:3]}) == 3
    assert bins[3] is None
    assert bins[4] == bins[0]
    assert bins[5] >= bins[2]


def test_bins_are_equally_full() -> None:
    values = np.random.default_rng(0).lognormal(size=10_000)
    sample = QuantileSample()
    for part in np.array_split(values, 7):
        sample.add(part)
    counts = np.bincount(quantile_bins(pl.Series(values), sample.edges(20)).to_numpy())
    assert len(counts) == 20
    assert counts.min() >= 499
    assert counts.max() <= 501


def test_no_values_make_one_bin() -> None:
    edges = QuantileSample().edges(10)
    assert quantile_bins(pl.Series([1.0, None, 5.0]), edges).to_list() == [0, None, 0]


@given(
    parts=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    size=st.integers(4, 16),
)
def test_sample_is_every_kth_value_and_bounded(parts: list[int], size: int) -> None:
    sample = QuantileSample(size)
    start = 0
    for part in parts:
        sample.add(np.arange(start, start + part, dtype=np.float64))
        start += part
    held = np.concatenate([np.empty(0), *sample._parts])
    assert len(held) <= 2 * size
    step = 1
    while math.ceil(start / step) > 2 * size:
        step *= 2
    np.testing.assert_array_equal(held, np.arange(0, start, step))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(2, 9))
def test_bins_keep_the_order_of_values(values: list[float], bins: int) -> None:
    sample = QuantileSample()
    sample.add(np.array(values))
    numbered = quantile_bins(pl.Series(sorted(values)), sample.edges(bins)).to_numpy()
    assert (np.diff(numbered) >= 0).all()
    assert numbered.max(initial=0) < bins


@pytest.mark.parametrize("bins", [2, 5, 64])
def test_edges_are_values_of_the_data(bins: int) -> None:
    values = np.random.default_rng(1).normal(size=333)
    sample = QuantileSample()
    sample.add(values)
    assert np.isin(sample.edges(bins), values).all()
