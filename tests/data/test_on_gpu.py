"""Rows in a device's memory: the same batches, where they belong there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn

from pme_lightning.data import ClickDataset, encoded, on_gpu
from pme_lightning.data.orders import shuffled
from pme_lightning.errors import BadInput

ROWS, FIELDS, TOKENS = 70, 3, 20
GPU = torch.device("cuda", 0)


@pytest.fixture
def dataset() -> ClickDataset:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, TOKENS, (ROWS, FIELDS), dtype=np.int32)
    return ClickDataset(ids, rng.integers(0, 2, ROWS, dtype=np.uint8), TOKENS)


@pytest.mark.parametrize("renumbered", [False, True])
@pytest.mark.parametrize("index", [3, slice(60, 90), torch.tensor([69, 0, 7, 7])], ids=["int", "slice", "tensor"])
def test_batches_are_those_of_the_data_set(
    dataset: ClickDataset, renumbered: bool, index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_gpu, "_CHUNK_ROWS", 32)
    if renumbered:
        dataset.renumbering = torch.randperm(TOKENS).int()
    held = on_gpu.RowsOnGPU(dataset, torch.device("cpu"))
    assert len(held) == ROWS
    for own, expected in zip(held[index], dataset[index], strict=True):
        assert own.dtype == expected.dtype
        assert torch.equal(own, expected)


def test_a_change_of_a_batch_stays_there(dataset: ClickDataset) -> None:
    held = on_gpu.RowsOnGPU(dataset, torch.device("cpu"))
    held[slice(0, 5)][0].zero_()
    assert torch.equal(held[slice(0, 5)][0], dataset[slice(0, 5)][0])


def test_rows_without_labels(dataset: ClickDataset) -> None:
    held = on_gpu.RowsOnGPU(ClickDataset(dataset.ids, None), torch.device("cpu"))
    assert len(held[slice(0, 5)]) == 1


def test_where_rows_belong(dataset: ClickDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ROWS * (4 * FIELDS + 4 + 16)
    free = [4 * needed]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free[0], 10 * needed))
    assert on_gpu.belongs_on_gpu("rows", dataset, GPU, None)
    assert not on_gpu.belongs_on_gpu("rows", dataset, GPU, False)
    assert not on_gpu.belongs_on_gpu("rows", dataset, torch.device("cpu"), True)
    free[0] = 4 * needed - 4
    assert not on_gpu.belongs_on_gpu("rows", dataset, GPU, None)
    assert on_gpu.belongs_on_gpu("rows", dataset, GPU, True)
    free[0] = needed - 1
    with pytest.raises(BadInput, match=r"on_gpu=true: rows takes .* cuda:0 has .* free: set data.on_gpu=false"):
        on_gpu.belongs_on_gpu("rows", dataset, GPU, True)


def test_all_processes_hold_rows_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def least(said: torch.Tensor, **how: Any) -> None:
        assert how == {"op": dist.ReduceOp.MIN}
        asked.append(int(said))
        said.fill_(0)

    monkeypatch.setattr(on_gpu.torch, "tensor", lambda value, **_: torch.full((), value))
    monkeypatch.setattr(dist, "all_reduce", least)
    assert on_gpu.all_or_none(True, GPU), "alone"
    monkeypatch.setattr(on_gpu, "place_among_processes", lambda: (0, 2))
    assert not on_gpu.all_or_none(True, GPU), "another process has no room"
    assert asked == [1]
    assert on_gpu.all_or_none(True, torch.device("cpu"))
    assert asked == [1]


@pytest.mark.parametrize("held", [True, False])
def test_a_fit_that_goes_on_holds_rows_where_it_did(
    tiny: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    tiny.trainer = make_trainer(max_epochs=1)
    tiny.trainer.state.fn = TrainerFn.FITTING
    assert tiny.state_dict()["on_gpu"] is False
    wanted: list[bool | None] = []
    monkeypatch.setattr(encoded, "belongs_on_gpu", lambda *given: wanted.append(given[3]) or bool(given[3]))
    tiny.load_state_dict({"epoch": 0, "batches": 2, "on_gpu": held})
    tiny.val_dataloader()
    tiny.train_dataloader()
    assert wanted == [None, held]
    assert tiny.state_dict()["on_gpu"] is held
    tiny.renumber(None)
    tiny.train_dataloader()
    assert wanted[2:] == [None], "the next fit decides for itself"


def test_a_device_draws_a_permutation_however_many_rows_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pme_lightning.data.orders.PERMUTED_ROWS", 10)
    drawn = [shuffled(ROWS, 1, epoch, device=torch.device("cpu")).rows(0, ROWS) for epoch in (0, 0, 1)]
    assert drawn[0].sort().values.tolist() == list(range(ROWS))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
