"""Orders give every row once, and any part of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.data import PermutationBatchSampler, orders
from pme_lightning.data.orders import BlockShuffled, Permuted, shuffled
from pme_lightning.data.permutation import Permutation

blocks = st.fixed_dictionaries({"block_rows": st.integers(1, 9), "window_blocks": st.integers(1, 7)})


@given(n=st.integers(1, 400), seed=st.integers(0, 2**63 - 1), options=blocks)
def test_every_row_once(n: int, seed: int, options: dict) -> None:
    order = BlockShuffled(n, seed, **options)
    assert sorted(order.rows(0, n).tolist()) == list(range(n))
    assert torch.equal(order.rows(0, n), BlockShuffled(n, seed, **options).rows(0, n))


@given(n=st.integers(1, 400), options=blocks, data=st.data())
def test_any_part_is_a_part_of_the_whole(n: int, options: dict, data: st.DataObject) -> None:
    whole = BlockShuffled(n, 3, **options).rows(0, n)
    order = BlockShuffled(n, 3, **options)
    for _ in range(3):
        start = data.draw(st.integers(0, n))
        stop = data.draw(st.integers(start, n))
        assert order.rows(start, stop).tolist() == whole[start:stop].tolist()


@given(n=st.integers(50, 400), options=blocks)
def test_a_window_has_the_rows_of_its_blocks(n: int, options: dict) -> None:
    order = BlockShuffled(n, 5, **options)
    size = options["block_rows"] * options["window_blocks"]
    first = order.rows(0, min(n, size - options["block_rows"])) // options["block_rows"]
    assert len(first.unique()) <= options["window_blocks"]


def test_orders_of_epochs_and_seeds_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "PERMUTED_ROWS", 10)
    found = [tuple(shuffled(500, seed, epoch).rows(0, 500).tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(found)) == 9


def test_windows_are_shuffled_each_in_its_own_way() -> None:
    order = BlockShuffled(4000, 0, block_rows=1000, window_blocks=1)
    within = {tuple((order.rows(i * 1000, (i + 1) * 1000) % 1000).tolist()) for i in range(4)}
    assert len(within) == 4


def test_few_rows_are_permuted_all_together() -> None:
    assert isinstance(shuffled(1000, 0, 0), Permuted)
    generator = torch.Generator().manual_seed(7 * 0x9E3779B1 + 2)
    assert torch.equal(shuffled(1000, 7, 2).rows(0, 1000), torch.randperm(1000, generator=generator))


def test_sorted_rows_come_well_mixed() -> None:
    # Clicks all at the end of the file: the worst that blocks can be. With 256 blocks in a window the share of clicks
    # in it is off by about sqrt(.25 * .75 / 256) = .027.
    n = 1 << 20
    clicks = torch.arange(n) >= 3 * n // 4
    order = BlockShuffled(n, 0, block_rows=256, window_blocks=256)
    shares = torch.stack([clicks[order.rows(i, i + 4096)].float().mean() for i in range(0, n, 4096)])
    assert (shares - 0.25).abs().max() < 0.12
    assert (shares - 0.25).square().mean().sqrt() < 0.04


@pytest.mark.parametrize("world_size", [1, 3])
def test_sampler_over_blocks(monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    monkeypatch.setattr(orders, "PERMUTED_ROWS", 10)
    monkeypatch.setattr(orders.BlockShuffled.__init__, "__defaults__", (None, 8, 5))

    def sampler(rank: int, batch_size: int = 7, world_size: int = world_size) -> PermutationBatchSampler:
        found = PermutationBatchSampler(1003, batch_size, shuffle=True, seed=1, rank=rank, world_size=world_size)
        found.set_epoch(4)
        return found

    steps = list(zip(*(sampler(rank) for rank in range(world_size)), strict=True))
    together = [torch.cat(step) for step in steps]
    assert sorted(torch.cat(together).tolist()) == list(range(1003))
    for found, expected in zip(together, sampler(0, 7 * world_size, 1), strict=True):
        assert torch.equal(found, expected)
    rest = sampler(0)
    rest.go_on(4, 20)
    assert torch.equal(torch.cat(list(rest)), torch.cat([step[0] for step in steps[20:]]))


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_computed_permutation_is_one(n: int, seed: int) -> None:
    permutation = Permutation(n, seed)
    moved = permutation(np.arange(n))
    assert sorted(moved.tolist()) == list(range(n))
    assert permutation(np.array([n - 1])).item() == moved[-1]


def test_computed_permutations_look_random() -> None:
    n = 100_000
    moved = Permutation(n, 1)(np.arange(n))
    assert (moved != Permutation(n, 2)(np.arange(n))).mean() > 0.99
    # Neighbours end up anywhere, and a tenth of the rows has its share of every tenth.
    assert abs(np.corrcoef(moved[1:], moved[:-1])[0, 1]) < 0.02
    shares = np.bincount(moved[: n // 10] * 10 // n, minlength=10)
    assert np.abs(shares - n / 100).max() < 5 * np.sqrt(n / 100)
