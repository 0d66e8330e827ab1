"""Where tensors are while they travel: a group of GPUs takes none in main memory, where tables lie between two fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pme_lightning import split_checkpoints
from pme_lightning.embedding import RowLayout, Shard, exchange

THERE = torch.device("meta")


class OnItsWay(Exception):
    """Something is on its way."""


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A group of two processes whose tensors have to be in another memory; notes where they were."""
    seen: list[torch.device] = []

    def take(*given: Any) -> None:
        tensors = [each for each in given if isinstance(each, Tensor)]
        tensors += [each for one in given if isinstance(one, list) for each in one if isinstance(each, Tensor)]
        seen.extend(tensor.device for tensor in tensors)
        raise OnItsWay

    for module in (exchange, split_checkpoints):
        monkeypatch.setattr(module, "meeting_device", lambda: THERE)
    for name in ("all_to_all_single", "gather"):
        monkeypatch.setattr(dist, name, take)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    return seen


def asked_for() -> None:
    exchange.RowExchange(torch.arange(5), Shard(0, 2), 10)


def answered() -> None:
    exchange._swapped(torch.ones(3, 2), [2, 1], [1, 2])


def written() -> None:
    (part,) = RowLayout.of_rows(4, 2).parts(Shard(0, 2))
    (other,) = RowLayout.of_rows(4, 2).parts(Shard(1, 2))
    split_checkpoints._gathered(torch.ones(2, 2), part, (part, other), 0, 4)


@pytest.mark.parametrize("send", [asked_for, answered, written])
def test_tensors_travel_where_the_group_takes_them(group: list[torch.device], send: Callable[[], None]) -> None:
    with pytest.raises(OnItsWay):
        send()
    assert set(group) == {THERE}
    assert len(group) >= 2


@pytest.mark.parametrize(("backend", "kind"), [("nccl", "cuda"), ("gloo", "cpu")])
def test_nccl_takes_those_of_gpus(monkeypatch: pytest.MonkeyPatch, backend: str, kind: str) -> None:
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert exchange.meeting_device().type == kind
