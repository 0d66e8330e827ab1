"""Batches cover every row exactly once, over epochs, batch sizes and ranks."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pme_lightning.data import ClickDataset, EncodedData, PermutationBatchSampler, orders
from pme_lightning.data.batches import keep
from pme_lightning.data.encoded import EncodedDataModule
from pme_lightning.errors import BadInput


def rows_of(sampler: PermutationBatchSampler) -> list[list[int]]:
    n = sampler.n
    return [list(range(n))[one] if isinstance(one, slice) else one.tolist() for one in sampler]


@given(
    n=st.integers(1, 200), batch_size=st.integers(1, 70), world_size=st.integers(1, 5), shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)  # fmt: skip
def test_ranks_share_every_row_without_overlap(
    n: int, batch_size: int, world_size: int, shuffle: bool, epoch: int
) -> None:
    if n < world_size:
        return
    shares = []
    for rank in range(world_size):
        sampler = PermutationBatchSampler(n, batch_size, shuffle, seed=7, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        batches = rows_of(sampler)
        assert len(batches) == len(sampler)
        assert all(batches)
        # Only the last batch may differ, by the rows that are too few for one of their own: single ones, to train on.
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert len(batches[-1]) <= batch_size + 1 + shuffle
        assert not shuffle or len(batches) == 1 or len(batches[-1]) >= min(2, batch_size)
        shares.append(batches)
    assert len({len(batches) for batches in shares}) == 1
    assert sorted(row for batches in shares for batch in batches for row in batch) == list(range(n))


@given(n=st.integers(1, 100), batch_size=st.integers(1, 20), world_size=st.integers(2, 4))
def test_ranks_together_see_the_batches_of_one_process(n: int, batch_size: int, world_size: int) -> None:
    if n < world_size:
        return
    one = rows_of(PermutationBatchSampler(n, batch_size * world_size, True, seed=3))
    many = [
        rows_of(PermutationBatchSampler(n, batch_size, True, seed=3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    together = [[row for batch in step for row in batch] for step in zip(*many, strict=True)]
    if len(together) < len(one):
        together, one = [list(chain(*together))], [list(chain(*one))]
    assert together == one


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = PermutationBatchSampler(100, 8, True, seed=seed)
        sampler.set_epoch(epoch)
        torch.rand(3)  # the global generator has no part in it
        return rows_of(sampler)

    assert order(1, 0) == order(1, 0)
    orders = [order(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_unshuffled_batches_are_slices_in_order() -> None:
    assert list(PermutationBatchSampler(10, 4)) == [slice(0, 4), slice(4, 8), slice(8, 10)]


@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_goes_on_after_the_batches_that_are_done(world_size: int) -> None:
    for rank in range(world_size):
        whole, rest = (
            PermutationBatchSampler(100, 7, shuffle=True, seed=3, rank=rank, world_size=world_size) for _ in range(2)
        )
        whole.set_epoch(2)
        rest.go_on(epoch=2, batches=3)
        assert len(rest) == len(whole)
        for expected, found in zip(list(whole)[3:], rest, strict=True):
            assert torch.equal(expected, found)
        # The next epoch is whole, and so is one of which all batches are done: it was to end.
        for sampler in (whole, rest):
            sampler.set_epoch(3)
        assert len(list(rest)) == len(list(whole))
        rest.go_on(epoch=3, batches=len(whole))
        assert len(list(rest)) == len(list(whole))


@pytest.mark.parametrize(("n", "batch_size", "world_size"), [(1, 4, 2), (5, 0, 1), (0, 4, 1)])
def test_bad_sizes(n: int, batch_size: int, world_size: int) -> None:
    with pytest.raises(BadInput):
        PermutationBatchSampler(n, batch_size, world_size=world_size)


IDS = np.arange(60, dtype=np.int32).reshape(20, 3)
LABELS = (np.arange(20) % 2).astype(np.uint8)


@pytest.mark.parametrize("index", [slice(3, 9), torch.tensor([5, 0, 19, 5])])
def test_items_are_batches(index: slice | torch.Tensor) -> None:
    ids, labels = ClickDataset(IDS, LABELS, 60)[index]
    assert (ids.dtype, labels.dtype) == (torch.int32, torch.float32)
    plain = index if isinstance(index, slice) else index.numpy()
    np.testing.assert_array_equal(ids, IDS[plain])
    np.testing.assert_array_equal(labels, LABELS[plain])
    (without,) = ClickDataset(IDS, None)[index]
    np.testing.assert_array_equal(without, ids)


def test_one_row_is_a_batch_of_one() -> None:
    ids, labels = ClickDataset(IDS, LABELS, 60)[7]
    assert ids.tolist() == [IDS[7].tolist()]
    assert labels.tolist() == [1]


@pytest.mark.parametrize("index", [slice(3, 9), torch.tensor([5, 0, 19, 5])])
def test_renumbering_maps_ids(index: slice | torch.Tensor) -> None:
    renumbering = torch.randperm(60).int()
    dataset = ClickDataset(IDS, LABELS, 60, renumbering)
    plain = index if isinstance(index, slice) else index.numpy()
    np.testing.assert_array_equal(dataset[index][0], renumbering.numpy()[IDS[plain]])


def test_batches_are_copies() -> None:
    ids = IDS.copy()
    dataset = ClickDataset(ids, LABELS.astype(np.float32))
    got, labels = dataset[slice(0, 5)]
    got.zero_()
    labels.fill_(9)
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_array_equal(dataset[slice(0, 5)][1], LABELS[:5])


def test_memory_maps_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", IDS)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="c")
    dataset = ClickDataset(mapped, LABELS)
    assert np.shares_memory(dataset.ids, mapped)
    read_only = np.load(tmp_path / "ids.npy", mmap_mode="r")
    assert np.shares_memory(ClickDataset(read_only, LABELS).ids, read_only)
    np.testing.assert_array_equal(ClickDataset(read_only, LABELS)[slice(0, 20)][0], IDS)


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        (IDS + 1, LABELS, "id 60 in row 19, field 2 is out of range: ids go from 0 to 59"),
        (IDS - 1, LABELS, "id -1 in row 0, field 0 is out of range"),
        (IDS.astype(np.int64), LABELS, "must be an int32 array"),
        (IDS[0], LABELS, "must be an int32 array"),
        (IDS, LABELS[:5], "20 rows of ids need as many labels"),
    ],
)
def test_bad_arrays(ids: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ClickDataset(ids, labels, 60)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_every_row_once(num_workers: int) -> None:
    sampler = PermutationBatchSampler(20, 6, shuffle=True, seed=1)
    loader = DataLoader(
        ClickDataset(IDS, LABELS), sampler=sampler, batch_size=None, collate_fn=keep, num_workers=num_workers
    )
    batches = list(loader)
    assert all(isinstance(batch, tuple) for batch in batches)
    assert [len(ids) for ids, _ in batches] == [6, 6, 6, 2]
    assert sorted(torch.cat([ids[:, 0] for ids, _ in batches]).tolist()) == IDS[:, 0].tolist()


def test_rows_are_fetched_ahead_a_window_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "ids.npy", np.arange(3003, dtype=np.int32).reshape(1001, 3))
    dataset = ClickDataset(np.load(tmp_path / "ids.npy", mmap_mode="r"), None)
    monkeypatch.setattr(orders, "PERMUTED_ROWS", 10)
    monkeypatch.setattr(orders.BlockShuffled.__init__, "__defaults__", (None, 8, 5))
    fetched: list[int] = []

    def prefetch(firsts: torch.Tensor, rows: int) -> None:
        dataset.prefetch(firsts, rows)
        for first in firsts.tolist():
            fetched.extend(range(first, min(first + rows, 1001)))

    sampler = PermutationBatchSampler(1001, 10, True, prefetch=prefetch)
    for batch in sampler:
        assert set(batch.tolist()) <= set(fetched)
        assert len(dataset[batch][0]) == len(batch)
    assert sorted(fetched) == list(range(1001))
    fetched.clear()
    sampler.go_on(0, 50)
    for batch in sampler:
        assert set(batch.tolist()) <= set(fetched)


@pytest.mark.parametrize("wrong", [-1, 2, 0.5, float("nan")])
def test_labels_are_0_and_1(wrong: float) -> None:
    labels = np.array([0, 1, wrong, 1], dtype=np.float32)
    with pytest.raises(BadInput, match=f"the label in row 2 is {wrong}.*: labels are 0 and 1"):
        ClickDataset(np.zeros((4, 1), np.int32), labels, 1)


@pytest.mark.parametrize(
    ("frequencies", "said"),
    [
        (np.array([1, 2]), "must be a tensor of whole numbers"),
        (torch.tensor([1.0, 2.0]), "must be a tensor of whole numbers"),
        (torch.tensor([1, -2]), "is -2; it must be 0 or more"),
    ],
)
def test_frequencies_are_counts(frequencies: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        EncodedData("mine", ["f"], [2], frequencies, {})


@pytest.mark.parametrize(
    ("ids", "labels", "said"),
    [
        (np.zeros((2, 1), np.int32), [0, 1], r"they are ndarray \(2, 1\) and list"),
        (torch.zeros(2, 1, dtype=torch.int32), np.zeros(2), r"they are Tensor \(2, 1\) and ndarray \(2,\)"),
        (np.zeros(2, np.int32), np.zeros(2), r"must be arrays of numpy, ids \(n, 1\) and labels \(n,\); they are"),
    ],
)
def test_splits_are_arrays_of_numpy(ids: Any, labels: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        EncodedData("mine", ["f"], [2], torch.tensor([1, 1]), {"train": (ids, labels)})


def test_ids_of_another_field_are_refused(tiny: EncodedDataModule) -> None:
    tiny.data.splits["train"][0][5:, 1] -= 8  # counted within the field
    for _ in range(2):  # asking again does not make them right
        with pytest.raises(BadInput, match=r"of the train split is none of field 'f1', whose ids go from 8 to 27"):
            tiny.train_dataloader()
