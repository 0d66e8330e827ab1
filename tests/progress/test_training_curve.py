"""The curve of a fit: its points against what every batch and every validation said."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from pme_lightning import CTRModule
from pme_lightning.backbones import FM
from pme_lightning.progress.training_curve import TrainingCurve


class EveryBatch(Callback):
    """Keeps the loss of every batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps one more."""
        self.losses.append(float(outputs["loss"]))


def fitted(tiny: Any, make_trainer: Callable[..., Trainer], curve: TrainingCurve, **options: Any) -> list[float]:
    every = EveryBatch()
    torch.manual_seed(0)
    module = CTRModule(tiny.field_tokens, FM, embedding_dim=4, optimizer_args={"lr": 0.01})
    make_trainer(callbacks=[every, curve], **options).fit(module, datamodule=tiny)
    return every.losses


def test_points_are_means_of_batches(tiny: Any, make_trainer: Callable[..., Trainer]) -> None:
    tiny.batch_size = 5  # 64 batches an epoch, 4 a point
    curve = TrainingCurve()
    losses = fitted(tiny, make_trainer, curve, max_epochs=2, limit_val_batches=1.0, num_sanity_val_steps=1)
    assert len(losses) == 128
    assert [loss for _, loss in curve.loss] == pytest.approx([fmean(losses[i : i + 4]) for i in range(0, 128, 4)])
    assert [epochs for epochs, _ in curve.loss] == pytest.approx([(i + 4) / 64 for i in range(0, 128, 4)])
    assert [point[0] for point in curve.valid] == [1.0, 2.0]
    assert all(0 < auc < 1 and 0 < logloss < 2 for _, auc, logloss in curve.valid)


def test_validations_within_an_epoch_and_a_last_part(tiny: Any, make_trainer: Callable[..., Trainer]) -> None:
    tiny.batch_size = 5
    curve = TrainingCurve()
    losses = fitted(
        tiny, make_trainer, curve, max_steps=30, max_epochs=-1, limit_val_batches=1.0, val_check_interval=16
    )
    assert [point[0] for point in curve.valid] == [0.25]
    assert curve.loss[-1] == (pytest.approx(30 / 64), pytest.approx(fmean(losses[28:])))


def test_long_fits_keep_few_points(tiny: Any, make_trainer: Callable[..., Trainer]) -> None:
    tiny.batch_size = 80  # 4 batches an epoch, each a point
    curve = TrainingCurve()
    losses = fitted(tiny, make_trainer, curve, max_epochs=60)
    assert len(losses) == 240
    assert 100 <= len(curve.loss) <= 201
    assert [loss for _, loss in curve.loss][:100] == pytest.approx([fmean(losses[i : i + 2]) for i in range(0, 200, 2)])
    assert curve.loss[-1][0] == pytest.approx(60)


def test_no_point_is_lost_where_neighbours_are_merged(tiny: Any, make_trainer: Callable[..., Trainer]) -> None:
    tiny.batch_size = 80  # 4 batches an epoch, each a point
    curve = TrainingCurve()
    losses = fitted(tiny, make_trainer, curve, max_steps=201, max_epochs=-1)
    assert curve.loss[-1] == (pytest.approx(201 / 4), pytest.approx(losses[-1]))


def test_an_interrupted_curve_goes_on(tiny: Any, make_trainer: Callable[..., Trainer]) -> None:
    tiny.batch_size = 5
    whole, first, second = TrainingCurve(), TrainingCurve(), TrainingCurve()
    fitted(tiny, make_trainer, whole, max_epochs=1)
    fitted(tiny, make_trainer, first, max_steps=30, max_epochs=-1)
    # As it is in a checkpoint: before the end of the fit has made a point of what is left.
    state = first.state_dict()
    epochs, mean = state["loss"].pop()
    assert epochs == pytest.approx(30 / 64)
    second.load_state_dict(state | {"sum": 2 * mean, "summed": 2})
    assert second.loss == whole.loss[:7]
    assert second.state_dict()["batches"] == 30
