"""The learning rate falls where validation stops getting better, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule, Trainer

from pme_lightning.backbones import FM
from pme_lightning.callbacks import PlateauCallback
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule

Build = Callable[..., Trainer]
ADAGRAD = "torch.optim.Adagrad"


class Scripted(CTRModule):
    """Reports given values as its validation AUC, an epoch each, and notes the learning rates it trains with."""

    script: list[float]

    def start(self, script: list[float]) -> Scripted:
        self.script, self.rates = script, []
        return self

    def on_train_epoch_start(self) -> None:
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("valid_auc", self.script[self.current_epoch])

    def on_validation_epoch_end(self) -> None:
        pass


def module(data: LightningDataModule, script: list[float], **arguments: Any) -> Scripted:
    options = {"optimizer_args": {"lr": 1e-2}} | arguments
    return Scripted(data.field_tokens, FM, embedding_dim=2, **options).start(script)


def fit(make_trainer: Build, data: LightningDataModule, model: CTRModule, *callbacks: Any, **options: Any) -> Trainer:
    trainer = make_trainer(callbacks=list(callbacks), limit_val_batches=1, limit_train_batches=1, **options)
    trainer.fit(model, datamodule=data)
    return trainer


def test_every_epoch_without_improvement_lowers_the_rate(tiny: LightningDataModule, make_trainer: Build) -> None:
    # Better, better by next to nothing, the same, better than the best, worse, worse, and one epoch to see it.
    model = module(tiny, [0.6, 0.6001, 0.6001, 0.62, 0.61, 0.615, 0.7])
    fit(make_trainer, tiny, model, PlateauCallback(), max_epochs=7)
    assert [rate for (rate,) in model.rates] == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5])


def test_patience_and_factor(tiny: LightningDataModule, make_trainer: Build) -> None:
    model = module(tiny, [0.6, 0.5, 0.5, 0.5, 0.5, 0.5])
    fit(make_trainer, tiny, model, PlateauCallback(factor=0.5, patience=1), max_epochs=6)
    assert [rate for (rate,) in model.rates] == pytest.approx([1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3])


def test_both_optimizers_are_lowered(tiny: LightningDataModule, make_trainer: Build) -> None:
    own = {"embedding_optimizer": ADAGRAD, "embedding_optimizer_args": {"lr": 0.1}}
    model = module(tiny, [0.6, 0.5, 0.5], **own)
    fit(make_trainer, tiny, model, PlateauCallback(), max_epochs=3)
    assert model.rates[0] == pytest.approx([1e-2, 0.1])
    assert model.rates[2] == pytest.approx([1e-3, 0.01])


def test_a_fit_without_validation_and_a_validation_without_fit_leave_it_alone(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    model = module(tiny, [0.6] * 4)
    trainer = make_trainer(callbacks=[PlateauCallback()], limit_val_batches=0, limit_train_batches=1, max_epochs=3)
    trainer.fit(model, datamodule=tiny)
    assert [rate for (rate,) in model.rates] == [1e-2] * 3
    trainer = fit(make_trainer, tiny, module(tiny, [0.6] * 4), PlateauCallback(), max_epochs=1)
    trainer.validate(trainer.lightning_module, datamodule=tiny, verbose=False)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 1e-2


def test_a_resumed_fit_remembers_the_best_value(tiny: LightningDataModule, make_trainer: Build, tmp_path: Path) -> None:
    script = [0.6, 0.5, 0.59, 0.7]
    whole = module(tiny, script)
    fit(make_trainer, tiny, whole, PlateauCallback(), max_epochs=4)
    first = fit(make_trainer, tiny, module(tiny, script), PlateauCallback(), max_epochs=2)
    first.save_checkpoint(tmp_path / "half.ckpt")
    second = module(tiny, script)
    trainer = make_trainer(callbacks=[PlateauCallback()], limit_val_batches=1, limit_train_batches=1, max_epochs=4)
    trainer.fit(second, datamodule=tiny, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert second.rates == whole.rates[2:]
    assert [rate for (rate,) in second.rates] == pytest.approx([1e-3, 1e-4])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"factor": 1.0}, "factor is 1.0"),
        ({"factor": 0.0}, "factor is 0.0"),
        ({"patience": -1}, "patience is -1"),
        ({"monitor": "valid_logloss"}, "monitor 'valid_logloss' with mode 'max'"),
        ({"monitor": "auc"}, "monitor 'auc'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        PlateauCallback(**arguments)
