"""Figures of a fit while it goes, with a logger that everybody has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from pme_lightning import CTRModule
from pme_lightning.backbones import FM
from pme_lightning.callbacks import PEPCallback, PruningCallback
from pme_lightning.progress.live_figures import LiveFigures, live_figures
from pme_lightning.progress.throughput import Throughput
from pme_lightning.search import AfterWarmup, Fisher, Gradual, TopK

MakeTrainer = Callable[..., Trainer]
OPTIMIZERS = {"optimizer_args": {"lr": 0.01}, "embedding_optimizer": "torch.optim.Adagrad"}
OPTIMIZERS |= {"embedding_optimizer_args": {"lr": 0.2}}


def figures(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "metrics.csv", infer_schema_length=None)


def series(table: pl.DataFrame, name: str) -> list[tuple[int, float]]:
    return list(table.filter(pl.col(name).is_not_null()).select("step", name).iter_rows())


def test_a_gradual_search_tells_how_far_it_has_pruned(tiny: Any, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    search = PruningCallback(Fisher(), Gradual(epochs=2, start=0.25, prunings=5), TopK(), budget=0.4)
    model = CTRModule(tiny.field_tokens, FM, embedding_dim=4, **OPTIMIZERS)  # type: ignore[arg-type]
    throughput = Throughput()
    logger = CSVLogger(tmp_path, name="", version="")
    callbacks = [search, throughput, LiveFigures(throughput)]
    trainer = make_trainer(max_epochs=9, callbacks=callbacks, logger=logger, log_every_n_steps=2)
    trainer.fit(model, datamodule=tiny)
    assert search.result is not None
    kept = series(figures(tmp_path), "kept_fraction")
    # 320 rows in batches of 32: 20 steps, logged every second one.
    assert [step for step, _ in kept] == list(range(1, 20, 2))
    values = [value for _, value in kept]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1
    assert len(set(values)) == 6
    assert values[-1] == pytest.approx(search.result.parameters / model.full_parameters)
    table = figures(tmp_path)
    assert {value for _, value in series(table, "lr_network")} == {0.01}
    assert {value for _, value in series(table, "lr_embedding")} == {0.2}
    assert series(table, "embedding_parameters") == [(0, 33 * 5)]
    assert series(table, "embedding_bytes") == [(0, 4 * 33 * 5)]
    assert min(value for _, value in series(table, "rows_per_second")) > 0


def test_the_best_validation_goes_on_with_a_checkpoint(tiny: Any, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def fit(epochs: int, folder: str, checkpoint: Path | None = None) -> tuple[Trainer, pl.DataFrame]:
        torch.manual_seed(0)
        model = CTRModule(tiny.field_tokens, FM, embedding_dim=4, optimizer_args={"lr": 0.05})
        throughput = Throughput()
        trainer = make_trainer(
            max_epochs=epochs,
            callbacks=[throughput, LiveFigures(throughput)],
            logger=CSVLogger(tmp_path / folder, name="", version=""),
            limit_val_batches=1.0,
            log_every_n_steps=50,
            num_sanity_val_steps=1,
        )
        trainer.fit(model, datamodule=tiny, ckpt_path=checkpoint, weights_only=True)
        return trainer, figures(tmp_path / folder)

    trainer, table = fit(4, "first")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    measured = [value for _, value in series(table, "valid_auc")]
    assert [v for _, v in series(table, "best_valid_auc")] == [max(measured[: n + 1]) for n in range(4)]
    lowest = min(value for _, value in series(table, "valid_logloss"))
    assert series(table, "best_valid_logloss")[-1][1] == lowest
    _, more = fit(5, "second", tmp_path / "last.ckpt")
    after = [value for _, value in series(more, "valid_auc")]
    assert [value for _, value in series(more, "best_valid_auc")] == [max([*measured, *after])]


def test_one_optimizer_for_all_has_one_rate_under_both_names(
    tiny: Any, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    model = CTRModule(tiny.field_tokens, FM, embedding_dim=4, optimizer_args={"lr": 0.05})
    throughput = Throughput()
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = make_trainer(
        max_epochs=1, callbacks=[throughput, LiveFigures(throughput)], logger=logger, log_every_n_steps=5
    )
    trainer.fit(model, datamodule=tiny)
    table = figures(tmp_path)
    assert {value for _, value in series(table, "lr_embedding")} == {0.05}
    # All parameters of a factorization machine but its bias belong to tokens.
    assert {value for _, value in series(table, "lr_network")} == {0.05}
    assert "kept_fraction" not in table.columns


def test_without_a_logger_nothing_is_computed(tiny: Any, make_trainer: MakeTrainer) -> None:
    throughput = Throughput()
    live = LiveFigures(throughput)
    model = CTRModule(tiny.field_tokens, FM, embedding_dim=4)
    make_trainer(max_epochs=1, callbacks=[throughput, live], limit_val_batches=1.0).fit(model, datamodule=tiny)
    assert live.state_dict() == {"best": {}}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU memory is measured on a GPU only")
def test_memory_of_the_gpu(tiny: Any, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    throughput = Throughput()
    logger = CSVLogger(tmp_path, name="", version="")
    callbacks = [throughput, LiveFigures(throughput)]
    model = CTRModule(tiny.field_tokens, FM, embedding_dim=4)
    trainer = make_trainer(
        accelerator="gpu", devices=1, max_epochs=1, callbacks=callbacks, logger=logger, log_every_n_steps=2
    )
    trainer.fit(model, datamodule=tiny)
    table = figures(tmp_path)
    assert all(value > 0 for _, value in series(table, "gpu_memory_gib"))
    assert max(v for _, v in series(table, "gpu_memory_peak_gib")) >= max(v for _, v in series(table, "gpu_memory_gib"))


def test_learned_thresholds_have_a_rate_of_their_own(tiny: Any, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    search = PEPCallback(AfterWarmup(epochs=4), TopK(), init=-6.0, lr=0.3, checks=20, budget=0.4)
    model = CTRModule(tiny.field_tokens, FM, embedding_dim=4, optimizer_args={"lr": 0.01})
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = make_trainer(
        max_epochs=9, callbacks=[search, *live_figures([search])], logger=logger, log_every_n_steps=4
    )
    trainer.fit(model, datamodule=tiny)
    table = figures(tmp_path)
    assert {value for _, value in series(table, "lr_thresholds")} == {0.3}
    assert {value for _, value in series(table, "lr_embedding")} == {0.01}
    kept = [value for _, value in series(table, "kept_fraction")]
    assert search.result is not None
    assert kept[-1] == pytest.approx(search.result.parameters / model.full_parameters)
    # On the way it is what survives, which thresholds that rise leave less and less of.
    assert len(set(kept[:-1])) > 2
    assert all(0 <= value <= 1 for value in kept)
