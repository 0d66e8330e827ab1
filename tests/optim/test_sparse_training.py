"""Sparse gradients through Lightning: when they are used, and that they train as dense ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from pme_lightning.backbones import DeepFM
from pme_lightning.callbacks import PruningCallback, TransferCallback
from pme_lightning.data import SyntheticDataModule
from pme_lightning.module import CTRModule
from pme_lightning.search import AfterWarmup, Fisher, NoTraining, Popularity, Prefix, SearchResult

D = 4
Build = Callable[..., Trainer]


def module(data: LightningDataModule, **kwargs: Any) -> CTRModule:
    torch.manual_seed(1)
    options: dict[str, Any] = {
        "embedding_dim": D,
        "backbone_args": {"hidden_units": [8], "dropout": 0.0},
        "optimizer_args": {"lr": 3e-3, "fused": True},
        "embedding_optimizer": "pme_lightning.optim.LazyAdagrad",
        "embedding_optimizer_args": {"lr": 0.1, "weight_decay": 1e-3, "decay_interval": 3},
    }
    return CTRModule(data.field_tokens, DeepFM, **options | kwargs)


def sizes(data: LightningDataModule, make_trainer: Build) -> SearchResult:
    callback = PruningCallback(Popularity(), NoTraining(), Prefix(), budget=0.6)
    make_trainer(callbacks=[callback], max_steps=0).fit(module(data), datamodule=data)
    assert callback.result is not None
    return callback.result


class Forced(Callback):
    """Makes gradients dense whatever the optimizer takes, and notes what they were."""

    def __init__(self, dense: bool) -> None:
        self.dense = dense
        self.seen: set[bool] = set()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.dense:
            pl_module.embedding.sparse = False

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen |= {parameter.grad.is_sparse for parameter in pl_module.table_parameters}


def weights(
    data: LightningDataModule, make_trainer: Build, dense: bool, multi: SearchResult | None, **options: Any
) -> list[Tensor]:
    model, forced = module(data), Forced(dense)
    callbacks: list[Callback] = [forced]
    if multi is not None:
        callbacks.append(TransferCallback(multi))
    make_trainer(callbacks=callbacks, max_steps=7, **options).fit(model, datamodule=data)
    assert forced.seen == {not dense}
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("multi_size", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01},
    ],
    ids=["plain", "clipped", "clipped by value", "accumulated"],
)
def test_sparse_gradients_train_as_dense_ones(
    tiny: LightningDataModule, make_trainer: Build, multi_size: bool, options: dict[str, Any]
) -> None:
    found = sizes(tiny, make_trainer) if multi_size else None
    pairs = zip(
        weights(tiny, make_trainer, False, found, **options),
        weights(tiny, make_trainer, True, found, **options),
        strict=True,
    )
    for sparse, dense in pairs:
        assert torch.allclose(sparse, dense, atol=2e-5)


def test_gradients_are_sparse_where_the_tables_optimizer_takes_them_so(tiny: LightningDataModule) -> None:
    model = module(tiny)
    model.configure_optimizers()
    assert model.embedding.sparse
    model.set_optimizers("torch.optim.Adam", {"lr": 1e-3})
    model.configure_optimizers()
    assert not model.embedding.sparse
    model.set_optimizers("torch.optim.Adam", {"lr": 1e-3}, "torch.optim.SparseAdam", {"lr": 1e-3})
    model.configure_optimizers()
    assert model.embedding.sparse


def test_torchs_sparse_adam_trains_the_table(tiny: LightningDataModule, make_trainer: Build) -> None:
    model = module(tiny, embedding_optimizer="torch.optim.SparseAdam", embedding_optimizer_args={"lr": 1e-2})
    before = model.embedding.weight.detach().clone()
    make_trainer(max_steps=3).fit(model, datamodule=tiny)
    assert not torch.equal(before, model.embedding.weight)


def test_a_search_scores_sparse_gradients_as_dense_ones(tiny: LightningDataModule, make_trainer: Build) -> None:
    tables = []
    for dense in (False, True):
        callback = PruningCallback(Fisher(), AfterWarmup(epochs=1.0), Prefix(), budget=0.6)
        make_trainer(callbacks=[Forced(dense), callback], max_epochs=1).fit(module(tiny), datamodule=tiny)
        assert callback.scores is not None
        tables.append(callback.scores.table)
    assert torch.allclose(tables[0], tables[1], rtol=1e-3, atol=1e-9)


def test_it_is_as_accurate_as_the_dense_path() -> None:
    """Both optimizers on a log where there is something to learn: the same AUC within what a seed moves it."""
    dense = {"lr": 0.1, "initial_accumulator_value": 1e-8, "weight_decay": 2e-5}
    found = {}
    # Of eight fields the rate of the one rises at first: not here.
    for name, own in (("torch.optim.Adagrad", {}), ("pme_lightning.optim.LazyAdagrad", {"warmup_steps": 0})):
        data = SyntheticDataModule(rows=30_000, tokens=2_000, num_fields=8, batch_size=512)
        data.setup()
        model = module(data, embedding_optimizer=name, embedding_optimizer_args=dense | own, embedding_dim=8)
        trainer = Trainer(
            max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", devices=1,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
        found[name] = trainer.test(model, datamodule=data, verbose=False)[0]["test_auc"]
    assert min(found.values()) > 0.6
    assert abs(found["torch.optim.Adagrad"] - found["pme_lightning.optim.LazyAdagrad"]) < 0.004
