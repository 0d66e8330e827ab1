"""Optimizers by name: fused where torch has that."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from pme_lightning.optim.build import build_optimizer


@pytest.mark.parametrize("own", [None, "torch.optim.Adagrad"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_adagrad_is_fused_on_a_processor_alone(device: str, own: str | None) -> None:
    with FakeTensorMode():  # a GPU without one: what it computes is not looked at
        parameters = [nn.Parameter(torch.zeros(2, device=device)) for _ in range(2)]
        fused = {"fused": True}
        optimizer = build_optimizer(
            parameters, parameters[1:], "torch.optim.Adagrad", fused, own, fused if own else None
        )
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert [bool(group["fused"]) for group in optimizer.param_groups] == [device == "cpu"] * (1 if own is None else 2)
