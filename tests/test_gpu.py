"""Training on a GPU: what it computes, where rows lie, when it waits. Skipped where there is none."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from pme_lightning.backbones import DCN, FM, AutoInt, DeepFM
from pme_lightning.callbacks import PruningCallback, TransferCallback
from pme_lightning.data import encoded
from pme_lightning.data.batches import ClickDataset
from pme_lightning.data.on_gpu import RowsOnGPU
from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.row_lookup import rows_at
from pme_lightning.module import CTRModule
from pme_lightning.search import AfterWarmup, ExpectedInformation, NoTraining, Popularity, Prefix, SearchResult

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
Build = Callable[..., Trainer]
D = 8


def module(data: Any, backbone: type = DeepFM, **kwargs: Any) -> CTRModule:
    torch.manual_seed(1)
    options: dict[str, Any] = {
        "embedding_dim": D,
        "backbone_args": {} if backbone in (FM, AutoInt) else {"hidden_units": [16], "dropout": 0.0},
        "optimizer_args": {"lr": 3e-3, "fused": True},
        "embedding_optimizer": "pme_lightning.optim.LazyAdagrad",
        # Not from zero: Adagrad's first steps would be the signs of gradients, those of rounding errors too.
        "embedding_optimizer_args": {
            "lr": 0.1,
            "initial_accumulator_value": 1e-2,
            "weight_decay": 1e-3,
            "decay_interval": 3,
        },
    }
    return CTRModule(data.field_tokens, backbone, **options | kwargs)


def popular(data: Any, make_trainer: Build, by_field: bool = False) -> SearchResult:
    callback = PruningCallback(Popularity(), NoTraining(), Prefix(), budget=0.5)
    make_trainer(callbacks=[callback], max_steps=0).fit(module(data), datamodule=data)
    assert callback.result is not None
    shape = (len(data.field_tokens), D, D) if by_field else (D, D)
    generator = torch.Generator().manual_seed(0)
    callback.result.basis = torch.linalg.qr(torch.randn(shape, generator=generator))[0]
    callback.result.spectrum = torch.rand(len(data.field_tokens), D, generator=generator).square()
    return callback.result


def trained(
    data: Any,
    make_trainer: Build,
    place: str,
    multi: SearchResult | None,
    backbone: type = DeepFM,
    bits: int = 32,
    embedding_optimizer_args: dict[str, Any] | None = None,
    **options: Any,
) -> list[Tensor]:
    adagrad = {} if embedding_optimizer_args is None else {"embedding_optimizer_args": embedding_optimizer_args}
    model = module(data, backbone, embedding_bits=bits, **adagrad)
    data.renumber(None)
    callbacks: list[Callback] = [] if multi is None else [TransferCallback(multi)]
    options = {"max_steps": 12, "callbacks": callbacks, "devices": 1} | options
    trainer = make_trainer(accelerator=place, **options)
    trainer.fit(model, datamodule=data)
    return [parameter.detach().cpu() for parameter in model.parameters()]


@pytest.fixture
def in_order(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows in the order of the file: a GPU that holds them would draw an order of its own."""
    sampler = encoded.PermutationBatchSampler
    monkeypatch.setattr(
        encoded, "PermutationBatchSampler", lambda *args, **kwargs: sampler(*args, **kwargs | {"shuffle": False})
    )
    return tiny


@pytest.mark.parametrize("multi_size", [False, True])
@pytest.mark.parametrize("backbone", [FM, DeepFM, DCN, AutoInt])
def test_it_trains_as_a_processor_does(in_order: Any, make_trainer: Build, backbone: type, multi_size: bool) -> None:
    multi = popular(in_order, make_trainer) if multi_size else None
    if multi is not None and backbone in (DCN, AutoInt):
        multi.linear = None
    on_processor = trained(in_order, make_trainer, "cpu", multi, backbone)
    on_gpu = trained(in_order, make_trainer, "gpu", multi, backbone)
    for own, expected in zip(on_gpu, on_processor, strict=True):
        assert torch.allclose(own, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("multi_size", [False, True])
def test_values_of_16_bits_are_those_of_32_but_for_rounding(
    in_order: Any, make_trainer: Build, multi_size: bool
) -> None:
    multi = popular(in_order, make_trainer) if multi_size else None
    wide, narrow = (trained(in_order, make_trainer, "gpu", multi, bits=bits) for bits in (32, 16))
    assert [own.dtype for own in narrow].count(torch.bfloat16) == (1 if multi_size else 2)
    for own, expected in zip(narrow, wide, strict=True):
        # Rounded at random in each of twelve steps: small against the steps of .1, in the mean.
        assert (own.float() - expected).abs().mean() < 0.015


def test_a_projection_a_field(in_order: Any, make_trainer: Build) -> None:
    multi = popular(in_order, make_trainer, by_field=True)
    multi.linear = None
    on_processor, on_gpu = (trained(in_order, make_trainer, place, multi, DCN) for place in ("cpu", "gpu"))
    assert [own.shape for own in on_gpu].count((len(in_order.field_tokens), D, D)) == 1
    for own, expected in zip(on_gpu, on_processor, strict=True):
        assert torch.allclose(own, expected, rtol=1e-3, atol=2e-4)


def test_decay_by_field(in_order: Any, make_trainer: Build) -> None:
    multi = popular(in_order, make_trainer)
    strong = {"lr": 0.1, "initial_accumulator_value": 1e-2, "weight_decay": 0.1, "decay_interval": 3}
    on_processor, on_gpu = (
        trained(in_order, make_trainer, place, multi, embedding_optimizer_args=strong) for place in ("cpu", "gpu")
    )
    for own, expected in zip(on_gpu, on_processor, strict=True):
        assert torch.allclose(own, expected, rtol=1e-3, atol=2e-4)
    multi.spectrum = None
    alike = trained(in_order, make_trainer, "gpu", multi, embedding_optimizer_args=strong)
    assert max(float((own - other).abs().max()) for own, other in zip(on_gpu, alike, strict=True)) > 0.01


@pytest.mark.parametrize("multi_size", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01},
    ],
    ids=["clipped", "clipped by value", "accumulated"],
)
def test_clipping_and_accumulation(
    in_order: Any, make_trainer: Build, multi_size: bool, options: dict[str, Any]
) -> None:
    multi = popular(in_order, make_trainer) if multi_size else None
    on_processor = trained(in_order, make_trainer, "cpu", multi, **options)
    on_gpu = trained(in_order, make_trainer, "gpu", multi, **options)
    for own, expected in zip(on_gpu, on_processor, strict=True):
        assert torch.allclose(own, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("multi_size", [False, True])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_is_near(in_order: Any, make_trainer: Build, multi_size: bool, precision: str) -> None:
    multi = popular(in_order, make_trainer) if multi_size else None
    exact = trained(in_order, make_trainer, "gpu", multi)
    near = trained(in_order, make_trainer, "gpu", multi, precision=precision)
    start = list(module(in_order).parameters())
    assert all(torch.isfinite(own).all() for own in near)
    far = max(float((own - expected).abs().max()) for own, expected in zip(near, exact, strict=True))
    assert far < 0.3
    assert any(not torch.equal(own, first.cpu()) for own, first in zip(near, start, strict=False))


class Waits(Callback):
    """Counts how often the processor waits for the GPU, in the steps after the first few, and where."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 4:
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 8:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("multi_size", "waits"), [(False, 1), (True, 2)])
def test_how_often_a_step_waits(tiny: Any, make_trainer: Build, multi_size: bool, waits: int) -> None:
    """Once for the number of distinct tokens, and of a multi-size table once more for that of their values."""
    multi = popular(tiny, make_trainer) if multi_size else None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        callbacks: list[Callback] = [Waits()] if multi is None else [TransferCallback(multi), Waits()]
        # Decay comes seldom; here never.
        adagrad = {"lr": 0.1, "weight_decay": 1e-3, "decay_interval": 100}
        trainer = make_trainer(accelerator="gpu", devices=1, max_steps=9, callbacks=callbacks)
        trainer.fit(module(tiny, embedding_optimizer_args=adagrad), datamodule=tiny)
    told = [each for each in seen if "synchroniz" in str(each.message)]
    # Of itself, torch.cuda says that it is a prototype.
    places = [f"{each.filename}:{each.lineno}" for each in told if "torch/cuda" not in each.filename]
    assert len(places) == 4 * waits, places


def test_rows_are_held_where_they_are_trained_on(tiny: Any, make_trainer: Build) -> None:
    seen: dict[str, Any] = {}

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen["train"] = trainer.train_dataloader.dataset  # type: ignore[union-attr]

        def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen["valid"] = trainer.val_dataloaders.dataset  # type: ignore[union-attr]

    for wanted, kind in ((None, RowsOnGPU), (True, RowsOnGPU), (False, ClickDataset)):
        tiny.on_gpu = wanted
        trainer = make_trainer(accelerator="gpu", devices=1, max_epochs=1, limit_val_batches=1.0, callbacks=[Look()])
        trainer.fit(module(tiny), datamodule=tiny)
        assert {type(each) for each in seen.values()} == {kind}
    multi = popular(tiny, make_trainer)
    tiny.on_gpu = True
    callbacks = [TransferCallback(multi), Look()]
    trainer = make_trainer(accelerator="gpu", devices=1, max_epochs=1, limit_val_batches=1.0, callbacks=callbacks)
    trainer.fit(module(tiny), datamodule=tiny)
    position = multi.order().argsort()
    assert not torch.equal(position, torch.arange(tiny.num_tokens))
    assert torch.equal(seen["valid"].ids.cpu(), position[torch.from_numpy(tiny.data.splits["valid"][0]).long()].int())


def test_a_search_finds_the_sizes_of_a_processor(in_order: Any, make_trainer: Build) -> None:
    found = []
    for place in ("cpu", "gpu"):
        search = PruningCallback(ExpectedInformation(), AfterWarmup(epochs=2), Prefix(), budget=0.5)
        make_trainer(accelerator=place, devices=1, max_epochs=3, callbacks=[search]).fit(
            module(in_order), datamodule=in_order
        )
        assert search.result is not None
        # The model is in main memory by then, what the search has summed up is not.
        assert torch.equal(search.result_for(0.5).sizes, search.result.sizes)
        found.append([search.result_for(budget).sizes.cpu().float() for budget in (0.5, 0.25)])
    for on_processor, on_gpu in zip(*found, strict=True):
        assert (on_processor - on_gpu).abs().mean() < 0.3
        assert abs(int(on_processor.sum() - on_gpu.sum())) <= 2 * D


def test_sums_and_rows_are_the_plain_ones() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    ids = torch.randint(0, 500, (20_000,), device="cuda", generator=generator, dtype=torch.int32)
    distinct = DistinctTokens.of(ids)
    for width, dtype in ((16, torch.float32), (1, torch.float32), (5, torch.bfloat16)):
        values = torch.randn(len(ids), width, device="cuda", generator=generator).to(dtype)
        expected = torch.zeros(500, width, dtype=torch.float64, device="cuda").index_add_(0, ids, values.double())
        assert torch.allclose(distinct.sum(values).double(), expected[distinct.tokens.long()], atol=1e-4)
        table = torch.randn(500, width, device="cuda", generator=generator).to(dtype)
        assert torch.equal(rows_at(ids.view(-1, 4), table), torch.nn.functional.embedding(ids.view(-1, 4), table))
    torch.use_deterministic_algorithms(True)
    try:
        values = torch.randn(len(ids), 16, device="cuda", generator=generator)
        assert torch.equal(distinct.sum(values), distinct.sum(values))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("command", [[], ["pareto", "budgets=[0.3,0.1]"]], ids=["pme", "pareto"])
@pytest.mark.parametrize("trainer", ["gpu", "ddp", "sharded"])
def test_whole_runs(root: Path, tmp_path: Path, trainer: str, command: list[str]) -> None:
    words = [*command, f"trainer={trainer}", "trainer.accelerator=gpu", "trainer.devices=1", "trainer.max_epochs=1"]
    words += ["data.rows=20000", "data.tokens=2000"]
    run = subprocess.run(
        [sys.executable, "train.py", *words, f"run_dir={tmp_path}/run"], cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    assert (tmp_path / "run" / "report.html").exists()
