"""What a fit that goes on takes up again: its checkpoints, where they are, and when validations are due."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint

from pme_lightning.backbones import FM
from pme_lightning.module import CTRModule
from pme_lightning.runs.resume_point import ResumePoint


def test_checkpoints_of_ones_own_stay_known(tiny: Any, make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    def fit(run: Path, epochs: int, resumes: bool) -> list[ModelCheckpoint]:
        folders = {run: "max", tmp_path / "mine": "min"}
        point = ResumePoint(run / "last.ckpt", resumes=resumes)
        kept = [ModelCheckpoint(folder, "{epoch}", "valid_auc", mode=mode) for folder, mode in folders.items()]
        options = {"limit_val_batches": 1.0, "num_sanity_val_steps": 0, "enable_checkpointing": True}
        trainer = make_trainer(max_epochs=epochs, callbacks=[point, *kept], **options)
        module = CTRModule(tiny.field_tokens, FM, embedding_dim=4, optimizer_args={"lr": 0.0})
        trainer.fit(module, datamodule=tiny, ckpt_path=str(point.path) if resumes else None, weights_only=True)
        return kept

    before = fit(tmp_path / "run", 1, resumes=False)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    # Nothing is learned: the first checkpoint stays the best.
    own, mine = fit(tmp_path / "moved", 3, resumes=True)
    assert mine.best_model_path == before[1].best_model_path
    assert mine.best_model_score == before[1].best_model_score
    assert own.best_model_path == str(tmp_path / "moved" / Path(before[0].best_model_path).name)
    for each in (own, mine):
        assert Path(each.best_model_path).is_file()
        assert len(list(Path(str(each.dirpath)).glob("epoch*.ckpt"))) == 1


class Dies(Callback):
    """Notes the steps that validations come after, and dies before a batch."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.validated: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self.validated.append(trainer.global_step)


def fitted(
    make_trainer: Callable[..., Trainer], data: Any, folder: Path, step: int, *others: Callback, **options: Any
) -> tuple[list[int], int]:
    """Fits until a step, goes on from there, and returns the steps that validations came after, and how many in all."""
    validated: list[int] = []
    for dies in (Dies(step), Dies(-1)):
        point = ResumePoint(folder / "last.ckpt", every_n_steps=1, resumes=dies.step < 0)
        options |= {"limit_val_batches": 1, "num_sanity_val_steps": 0, "enable_checkpointing": True}
        trainer = make_trainer(callbacks=[point, *others, dies], **options)
        module = CTRModule(data.field_tokens, FM, embedding_dim=4)
        path = str(point.path) if point.resumes else None
        with nullcontext() if point.resumes else pytest.raises(RuntimeError, match="killed"):
            trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        validated += dies.validated
    return validated, trainer.global_step


def test_validations_counted_over_epochs_come_when_they_would_have(
    tiny: Any, make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    over_epochs = {"check_val_every_n_epoch": None, "val_check_interval": 3, "limit_train_batches": 2}
    assert fitted(make_trainer, tiny, tmp_path, 4, max_epochs=4, **over_epochs) == ([3, 6], 8)


def test_a_step_has_as_many_batches_as_it_would_have_had(
    tiny: Any, make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    scheduled = GradientAccumulationScheduler({0: 2})
    assert fitted(make_trainer, tiny, tmp_path, 1, scheduled, max_epochs=1, limit_train_batches=6) == ([3], 3)
