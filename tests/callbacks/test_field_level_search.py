"""Searches of one size a field, inside a fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.nn import functional as F

from pme_lightning.backbones import DCN, FM
from pme_lightning.callbacks import PruningCallback
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import (
    Criterion,
    Epoch,
    FieldPopularity,
    FieldSaliency,
    FieldSizes,
    NoTraining,
    Schedule,
    SingleShot,
)

D = 4
Build = Callable[..., Trainer]


def module(data: LightningDataModule, backbone: type) -> CTRModule:
    torch.manual_seed(1)
    return CTRModule(data.field_tokens, backbone, embedding_dim=D, embedding_init_std=0.1, optimizer_args={"lr": 0.01})


def search(data: LightningDataModule, make_trainer: Build, callback: PruningCallback, backbone: type = FM) -> CTRModule:
    model = module(data, backbone)
    steps = callback.num_steps(Epoch(len(data.train_dataloader())))
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=steps).fit(model, datamodule=data)
    return model


@pytest.mark.parametrize("backbone", [FM, DCN])
@pytest.mark.parametrize(
    ("criterion", "schedule"), [(FieldPopularity(), NoTraining()), (FieldSaliency(), SingleShot(0.5, batches=3))]
)
def test_every_budget_is_met_by_whole_fields(
    tiny: LightningDataModule, make_trainer: Build, backbone: type, criterion: Criterion, schedule: Schedule
) -> None:
    callback = PruningCallback(criterion, schedule, FieldSizes(), budget=0.5)
    full = search(tiny, make_trainer, callback, backbone).full_parameters
    for budget in (0.3, 0.5, 0.8, 1.0):
        result = callback.result_for(budget)
        left = int(budget * full) - D * D - result.parameters
        assert left >= 0
        for tokens, sizes, linear in zip(
            tiny.field_tokens,
            result.sizes.split(tiny.field_tokens),
            (torch.ones(33) if result.linear is None else result.linear).split(tiny.field_tokens),
            strict=True,
        ):
            assert (sizes == sizes[0]).all()
            assert (linear == linear[0]).all()
            assert tokens > left or (sizes[0] == D and linear[0])


def test_scores_are_of_the_model_as_it_was_trained(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(FieldSaliency(), SingleShot(epochs=0.5, batches=2), FieldSizes(), budget=0.5)
    model = search(tiny, make_trainer, callback)

    twin, loader = module(tiny, FM), tiny.train_dataloader()
    loader.sampler.set_epoch(0)
    optimizer = twin.configure_optimizers()
    sums = torch.zeros(33, D)
    for step, (ids, labels) in enumerate(loader):
        if step == 7:
            break
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(twin(ids), labels).backward()
        if step < 5:
            optimizer.step()
        else:
            sums += twin.embedding.weight.grad
    assert torch.allclose(model.embedding.weight, twin.embedding.weight, atol=1e-6)
    expected = [part.sum(0).abs() for part in (twin.embedding.weight * sums).split(tiny.field_tokens)]
    found = [part[0] for part in callback.scores.table.split(tiny.field_tokens)]
    ratio = torch.stack(found) / torch.stack(expected)
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3)
    total = torch.stack(found).sum() + sum(part[0] for part in callback.scores.linear.split(tiny.field_tokens))
    assert total.item() == pytest.approx(1, abs=1e-5)


def test_a_budget_below_the_smallest_field_is_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    for criterion, schedule in ((FieldPopularity(), NoTraining()), (FieldSaliency(), SingleShot())):
        callback = PruningCallback(criterion, schedule, FieldSizes(), budget=D * D + 4)
        with pytest.raises(BadInput, match="smallest field takes 5"):
            search(tiny, make_trainer, callback)
        assert callback.step == 0, "before any training"
