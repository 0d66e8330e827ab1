"""Training with another optimizer for the table, through Lightning: resumed, clipped, scaled, pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from pme_lightning.backbones import DCN, FM, AutoInt, AutoIntPlus, DCNv2, DeepFM
from pme_lightning.callbacks import PEPCallback, PruningCallback, TransferCallback
from pme_lightning.embedding import MultiSizeEmbedding, SoftThreshold
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.optim import JoinedOptimizer, LazyAdagrad, turn_state
from pme_lightning.search import AfterWarmup, Epoch, Fisher, Gradual, NoTraining, Popularity, Prefix, SearchResult, TopK

D = 4
Build = Callable[..., Trainer]
LAZY = {"embedding_optimizer": "pme_lightning.optim.LazyAdagrad", "embedding_optimizer_args": {"weight_decay": 0.01}}
ADAM = {"lr": 3e-3, "fused": True}
ADAGRAD = {"lr": 0.1, "initial_accumulator_value": 1e-8, "weight_decay": 2e-5, "fused": True}


def module(data: LightningDataModule, backbone: type = DeepFM, **kwargs: Any) -> CTRModule:
    torch.manual_seed(1)
    options = {"embedding_dim": D, "optimizer_args": ADAM, "backbone_args": {"hidden_units": [8], "dropout": 0.0}}
    options |= {"embedding_optimizer": torch.optim.Adagrad, "embedding_optimizer_args": ADAGRAD}
    options |= {"backbone_args": {}} if backbone is FM else {}
    return CTRModule(data.field_tokens, backbone, **options | kwargs)


def sizes(data: LightningDataModule, make_trainer: Build) -> SearchResult:
    callback = PruningCallback(Popularity(), NoTraining(), Prefix(), budget=0.6)
    make_trainer(callbacks=[callback], max_steps=0).fit(module(data), datamodule=data)
    assert callback.result is not None
    return callback.result


def trained_by(optimizer: JoinedOptimizer, kind: type, model: CTRModule) -> set[str]:
    ids = {id(p) for each in optimizer.optimizers if type(each) is kind for g in each.param_groups for p in g["params"]}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_rows_and_first_order_weights_are_the_tables_and_what_tokens_share_is_not(tiny: LightningDataModule) -> None:
    model = module(tiny)
    model.embedding.threshold = SoftThreshold(tiny.field_tokens, D, first_order=True)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, JoinedOptimizer)
    assert trained_by(optimizer, torch.optim.Adagrad, model) == {"embedding.weight", "embedding.linear"}
    per_token = torch.arange(tiny.num_tokens) % (D + 1)
    model.set_embedding(MultiSizeEmbedding.from_sizes(per_token, D, per_token > 0))
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, JoinedOptimizer)
    assert trained_by(optimizer, torch.optim.Adagrad, model) == {"embedding.values"}
    network = trained_by(optimizer, torch.optim.Adam, model)
    assert "embedding.projection" in network
    assert network == {name for name, _ in model.named_parameters()} - {"embedding.values"}


class Weightless(nn.Module):
    """A backbone with nothing to train."""

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings.sum((1, 2))


def test_a_backbone_without_weights_leaves_the_embedding_optimizer_alone(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    model = module(tiny, Weightless, backbone_args={})
    before = model.embedding.weight.detach().clone()
    make_trainer(max_epochs=1).fit(model, datamodule=tiny)
    assert type(model.configure_optimizers()) is torch.optim.Adagrad
    assert not torch.equal(model.embedding.weight, before)


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("multi_size", [False, True])
def test_a_resumed_training_is_the_one_that_was_not_interrupted(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path, multi_size: bool, bits: int
) -> None:
    narrow: dict[str, Any] = {} if bits == 32 else {"embedding_bits": bits} | LAZY
    found = sizes(tiny, make_trainer) if multi_size else None

    class Batches(Callback):
        count = 0

        def on_train_batch_start(self, *_: Any) -> None:
            self.count += 1

    def fit(epochs: int, ckpt_path: Path | None = None) -> tuple[CTRModule, Trainer, int]:
        tiny.renumber(None)
        model = module(tiny, **narrow)
        keep = ModelCheckpoint(tmp_path, f"after-{epochs}", save_on_train_epoch_end=True, every_n_epochs=epochs)
        batches = Batches()
        callbacks = [keep, batches, *([TransferCallback(found)] if found else [])]
        trainer = make_trainer(max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
        trainer.fit(model, datamodule=tiny, ckpt_path=ckpt_path, weights_only=True)
        return model, trainer, batches.count

    once, first, _ = fit(2)
    fit(1)
    resumed, second, batches = fit(2, tmp_path / "after-1.ckpt")
    assert first.global_step == second.global_step == 20
    assert batches == 10, "it was not resumed"
    for name, value in once.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert {p.dtype for p in once.table_parameters} == {torch.bfloat16 if narrow else torch.float32}
    left, right = first.optimizers[0].state_dict(), second.optimizers[0].state_dict()
    assert left["param_groups"] == right["param_groups"]
    assert left["state"].keys() == right["state"].keys()
    for number, state in left["state"].items():
        assert all(torch.equal(value, right["state"][number][key]) for key, value in state.items())


def test_training_is_that_of_both_optimizers_apart(tiny: LightningDataModule, make_trainer: Build) -> None:
    model, apart = module(tiny), module(tiny)
    make_trainer(max_epochs=1).fit(model, datamodule=tiny)
    table = [apart.embedding.weight, apart.embedding.linear]
    optimizers = [torch.optim.Adam(apart.backbone.parameters(), **ADAM), torch.optim.Adagrad(table, **ADAGRAD)]
    for ids, labels in tiny.train_dataloader():
        loss = nn.functional.binary_cross_entropy_with_logits(apart(ids), labels)
        apart.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    for (name, p), q in zip(model.named_parameters(), apart.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("table_optimizer", ["torch.optim.Adagrad", "pme_lightning.optim.LazyAdagrad"])
def test_clipping_and_scaling_work_with_fused_and_sparse_optimizers(
    table_optimizer: str, tiny: LightningDataModule, make_trainer: Build
) -> None:
    norms: list[float] = []

    class Watched(CTRModule):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            gradients = [p.grad.norm() for p in self.parameters() if p.grad is not None]
            norms.append(torch.stack(gradients).norm().item())

    torch.manual_seed(1)
    options = {"optimizer_args": ADAM, "embedding_optimizer": table_optimizer, "embedding_dim": D}
    arguments = {key: value for key, value in ADAGRAD.items() if key != "fused" or "torch" in table_optimizer}
    model = Watched(tiny.field_tokens, FM, **options, embedding_optimizer_args=arguments)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    trainer = make_trainer(max_epochs=2, gradient_clip_val=0.05, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    trainer.fit(model, datamodule=tiny)
    assert len(norms) == trainer.global_step == 20
    # Clipped as they are, not as they are scaled.
    assert max(norms) == pytest.approx(0.05, rel=1e-3)
    assert torch.isfinite(model.embedding.weight).all()
    assert (model.embedding.weight.abs() > 0.1).any(), "the table was not trained"


def test_a_checkpoint_names_both_optimizers_and_older_ones_load(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path
) -> None:
    model = module(tiny)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, datamodule=tiny)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    loaded = CTRModule.load_from_checkpoint(tmp_path / "new.ckpt", weights_only=True)
    assert loaded.embedding_optimizer_class == "torch.optim.adagrad.Adagrad"
    assert loaded.embedding_optimizer_args == ADAGRAD
    assert isinstance(loaded.configure_optimizers(), JoinedOptimizer)
    old = torch.load(tmp_path / "new.ckpt", weights_only=True)
    for key in ("embedding_optimizer", "embedding_optimizer_args"):
        del old["hyper_parameters"][key]
    torch.save(old, tmp_path / "old.ckpt")
    loaded = CTRModule.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True)
    (own,) = loaded.configure_optimizers().optimizers  # type: ignore[attr-defined]
    assert type(own) is torch.optim.Adam
    loaded.set_optimizers("torch.optim.SGD", {"lr": 0.5}, torch.optim.Adagrad)
    assert loaded.hparams["optimizer"] == "torch.optim.SGD"
    assert loaded.hparams["embedding_optimizer"] == "torch.optim.adagrad.Adagrad"


def test_a_rotation_turns_adagrads_sums(tiny: LightningDataModule) -> None:
    model = module(tiny)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, JoinedOptimizer)
    sums = optimizer.state[model.embedding.weight]["sum"]
    assert torch.equal(sums, torch.full_like(sums, 1e-8))
    quarter = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0.6, 0.8], [0, 0, -0.8, 0.6]])
    turn_state(optimizer, model.embedding.weight, quarter)
    assert torch.allclose(sums, torch.full_like(sums, 1e-8), atol=0), "what is alike along all axes stays so"
    sums.copy_(torch.tensor([1.0, 2.0, 3.0, 5.0]).expand_as(sums))
    turn_state(optimizer, model.embedding.weight, quarter)
    # Axes 0 and 1 change places; along axis 2 come 0.36 of 3 and 0.64 of 5.
    assert torch.allclose(sums[0], torch.tensor([2.0, 1.0, 0.36 * 3 + 0.64 * 5, 0.64 * 3 + 0.36 * 5]))


@pytest.mark.parametrize("backbone", [FM, DeepFM])
def test_a_gradual_search_trains_with_both(tiny: LightningDataModule, make_trainer: Build, backbone: type) -> None:
    callback = PruningCallback(Fisher(axes="principal"), Gradual(epochs=2.0, prunings=3), Prefix(), budget=0.5)
    model = module(tiny, backbone)
    steps = callback.num_steps(Epoch(10))
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=steps).fit(model, datamodule=tiny)
    assert callback.result is not None
    assert callback.result.parameters + D * D <= 0.5 * model.full_parameters


def test_learned_thresholds_are_trained_by_the_optimizer_of_the_network(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    class Looks(PEPCallback):
        def on_train_end(self, trainer: Trainer, pl_module: CTRModule) -> None:
            joined = trainer.optimizers[0]
            assert isinstance(joined, JoinedOptimizer)
            self.adams = trained_by(joined, torch.optim.Adam, pl_module)
            joined.state_dict()  # no state was left where its parameter is no longer
            self.rates = [(group["lr"], group["weight_decay"]) for group in joined.param_groups]

    callback = Looks(AfterWarmup(epochs=2), TopK(), init=-5.0, lr=0.5, budget=0.5)
    model = module(tiny, FM, optimizer_args={"lr": 3e-3, "weight_decay": 0.1})
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=20).fit(model, datamodule=tiny)
    assert callback.result is not None
    assert callback.adams == {"backbone.bias", "embedding.threshold.raw", "embedding.threshold.raw_linear"}
    assert callback.rates == [(3e-3, 0.1), (0.5, 0.0), (0.1, 2e-5)]


def test_weight_decay_goes_by_the_rows_of_the_data_module(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = {"embedding_optimizer": LazyAdagrad, "embedding_optimizer_args": {"lr": 0.1, "weight_decay": None}}

    def decay_of(trainer: Trainer) -> float:
        (joined,) = trainer.optimizers
        return joined.param_groups[-1]["weight_decay"]

    monkeypatch.setattr(type(tiny), "rows", {"test": 7}, raising=False)
    with pytest.raises(BadInput, match=r"LazyAdagrad: weight_decay is None, .* rows"):
        make_trainer(max_epochs=1).fit(module(tiny, **prior), datamodule=tiny)
    monkeypatch.setattr(type(tiny), "rows", {"train": 400, "valid": 7})
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module(tiny, **prior), datamodule=tiny)
    assert decay_of(trainer) == 16 / 400
    assert trainer.optimizers[0].param_groups[-1]["decay_interval"] == 400 // tiny.batch_size < 64
    trainer.save_checkpoint(tmp_path / "one.ckpt")

    loaded = CTRModule.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert loaded.embedding_optimizer_args == prior["embedding_optimizer_args"]
    monkeypatch.setattr(type(tiny), "rows", {"train": 4000})
    trainer = make_trainer(max_epochs=1)
    trainer.fit(loaded, datamodule=tiny)
    assert decay_of(trainer) == 16 / 4000, "trained on other rows, it goes by those"
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module(tiny, **prior), datamodule=tiny, ckpt_path=tmp_path / "one.ckpt")
    assert decay_of(trainer) == 16 / 400, "the training that was begun goes on as it was"


class Own(nn.Module):
    """A backbone that says nothing about what it sums."""

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.output = nn.Linear(num_fields * embedding_dim, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.output(embeddings.flatten(1)).squeeze(1)


@pytest.mark.parametrize(
    ("backbone", "rises"),
    [(FM, True), (DeepFM, True), (Own, True), (DCN, False), (DCNv2, False), (AutoInt, False), (AutoIntPlus, False)],
)
def test_of_many_fields_the_rate_rises_unless_the_backbone_has_no_sum_over_pairs(backbone: type, rises: bool) -> None:
    fields = 28
    torch.manual_seed(0)
    options = {"embedding_optimizer": LazyAdagrad, "embedding_optimizer_args": {"lr": 0.2}}
    model = CTRModule([2] * fields, backbone, embedding_dim=4, **options)  # type: ignore[arg-type]
    optimizer, before = model.configure_optimizers(), model.embedding.weight.detach().clone()
    model(torch.arange(0, 2 * fields, 2).expand(3, -1)).sum().backward()
    optimizer.step()
    moved = (model.embedding.weight - before)[::2].abs()
    expected = 0.1 / 16 if rises else 0.1  # the first step of Adagrad is the rate
    assert moved.flatten().tolist() == pytest.approx([expected] * moved.numel(), rel=1e-3)


def test_of_many_fields_the_first_steps_make_no_large_logits() -> None:
    fields, tokens, generator = 39, 5, torch.Generator().manual_seed(0)
    clicks = (torch.rand(64, generator=generator) < 0.3).float()
    ids = torch.randint(tokens, (64, fields), generator=generator) + torch.arange(fields) * tokens
    largest = {}
    for scaled in (False, True):
        torch.manual_seed(0)
        model = CTRModule(
            [tokens] * fields,
            FM,
            embedding_dim=16,
            embedding_optimizer=LazyAdagrad,
            embedding_optimizer_args={"lr": 0.1, "initial_accumulator_value": 1e-8, "scale_by_fields": scaled},
        )
        optimizer = model.configure_optimizers()
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(ids), clicks)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        largest[scaled] = max(losses)
    assert largest[False] > 5
    assert largest[True] < 0.75
