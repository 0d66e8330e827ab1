"""What a fit that goes on takes up again: its checkpoints, where they are, and when validations are due."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from pme_lightning.backbones import FM
from pme_lightning.module import CTRModule
from pme_lightning.resume_point import ResumePoint


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


def test_validations_counted_over_epochs_come_when_they_would_have(
    tiny: Any, make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    class Dies(Callback):
        """Counts validations by the step they come after, and dies before a batch."""

        def __init__(self, batch: int) -> None:
            self.batch, self.steps = batch, []

        def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == self.batch:
                raise RuntimeError("killed")

        def on_validation_end(self, trainer: Trainer, module: Any) -> None:
            self.steps.append(trainer.global_step)

    def fit(dies: Dies, resumes: bool) -> None:
        point = ResumePoint(tmp_path / "last.ckpt", every_n_steps=1, resumes=resumes)
        options = {"check_val_every_n_epoch": None, "val_check_interval": 3, "limit_val_batches": 1}
        limits = {"limit_train_batches": 2, "num_sanity_val_steps": 0, "enable_checkpointing": True}
        trainer = make_trainer(max_epochs=4, callbacks=[point, dies], **options | limits)
        module = CTRModule(tiny.field_tokens, FM, embedding_dim=4)
        trainer.fit(module, datamodule=tiny, ckpt_path=str(point.path) if resumes else None, weights_only=True)

    before, after = Dies(4), Dies(-1)
    with pytest.raises(RuntimeError, match="killed"):
        fit(before, resumes=False)
    fit(after, resumes=True)
    assert before.steps + after.steps == [3, 6]
