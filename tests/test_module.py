"""The LightningModule: metrics over the whole set, checkpoints that need nothing beside them, clear complaints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_auroc

from pme_lightning.backbones import FM, DeepFM
from pme_lightning.embedding import MultiSizeEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.export.measured import measured
from pme_lightning.module import CTRModule
from pme_lightning.optim import LazyAdagrad

FIELD_TOKENS = [5, 7, 3]


class Sum(nn.Module):
    """A backbone without a first-order term."""

    def __init__(self, num_fields: int, embedding_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_fields * embedding_dim,), scale))

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings.flatten(1) @ self.weight


class Column(Sum):
    """A backbone that returns a column, as many do by mistake."""

    def forward(self, embeddings: Tensor) -> Tensor:
        return super().forward(embeddings)[:, None]


class Named(CTRModule):
    """A module that passes on what it does not know."""

    def __init__(self, alpha: float = 1.0, **others: Any) -> None:
        super().__init__(**others)
        self.alpha = alpha


def batches(rows: int = 64, size: int = 10) -> list[tuple[Tensor, Tensor]]:
    ids = torch.stack([torch.randint(0, n, (rows,)) for n in FIELD_TOKENS], dim=1).int()
    ids += torch.tensor([0, 5, 12], dtype=torch.int32)
    labels = (torch.rand(rows) < 0.4).float()
    return list(zip(ids.split(size), labels.split(size), strict=True))


def trainer(tmp_path: Path, **kwargs: object) -> Trainer:
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=tmp_path, **options | kwargs)


def loader(data: list) -> DataLoader:
    return DataLoader(data, batch_size=None)


def test_metrics_are_over_the_whole_set(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4, embedding_init_std=0.5)
    data = batches(rows=97)
    found = trainer(tmp_path).test(module, loader(data), verbose=False)[0]
    ids, labels = torch.cat([b[0] for b in data]), torch.cat([b[1] for b in data])
    with torch.no_grad():
        logits = module(ids)
    assert found["test_auc"] == pytest.approx(binary_auroc(torch.sigmoid(logits), labels.int()).item(), abs=1e-6)
    expected = F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()
    assert found["test_logloss"] == pytest.approx(expected, abs=1e-6)


def test_auc_does_not_depend_on_the_batches_when_logits_look_like_probabilities(tmp_path: Path) -> None:
    # A metric that guesses "logits or probabilities" batch by batch would mix the two up here.
    module = CTRModule([4], Sum, {"scale": 1.0}, embedding_dim=1)
    with torch.no_grad():
        module.embedding.weight.copy_(torch.tensor([[0.2], [0.9], [3.0], [-2.0]]))
    ids, labels = torch.tensor([[0], [1], [2], [3]], dtype=torch.int32), torch.tensor([0.0, 0.0, 1.0, 0.0])
    data = [(ids[:2], labels[:2]), (ids[2:], labels[2:])]
    assert trainer(tmp_path).test(module, loader(data), verbose=False)[0]["test_auc"] == 1.0


def test_rows_of_one_label_have_no_auc(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4)
    data = [(ids, torch.ones_like(labels)) for ids, labels in batches()]
    found = trainer(tmp_path).test(module, loader(data), verbose=False)[0]
    assert math.isnan(found["test_auc"])
    assert found["test_logloss"] > 0
    assert math.isnan(measured(lambda ids: torch.sigmoid(module(ids)).detach(), data)["auc"])


def test_a_model_is_not_chosen_by_an_auc_that_there_is_not(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4)
    clicks = loader([(ids, torch.ones_like(labels)) for ids, labels in batches()])
    with pytest.raises(BadInput, match="have one label only, and the model is chosen by valid_auc"):
        trainer(tmp_path, max_epochs=1, callbacks=[EarlyStopping("valid_auc")]).fit(module, clicks, clicks)
    trainer(tmp_path, max_epochs=1, callbacks=[EarlyStopping("valid_logloss")]).fit(module, clicks, clicks)
    trainer(tmp_path, callbacks=[EarlyStopping("valid_auc")]).validate(module, clicks, verbose=False)


def test_a_model_that_has_diverged_is_not_told_to_train_otherwise(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4)
    module.table_parameters[0].data.fill_(math.nan)
    with pytest.raises(BadInput, match="not a number: this model was trained until it diverged"):
        trainer(tmp_path).validate(module, loader(batches()), verbose=False)


def test_numbers_of_numpy_do_not_keep_a_checkpoint_from_loading(tmp_path: Path) -> None:
    rates = np.logspace(-3, -2, 3)
    module = CTRModule(
        FIELD_TOKENS,
        DeepFM,
        {"hidden_units": [np.int64(4)], "dropout": np.float32(0.5)},
        embedding_dim=np.int64(4),  # type: ignore[arg-type]
        embedding_init_std=rates[1],
        optimizer_args={"lr": rates[0], "betas": (rates[2], np.float32(0.5))},
        embedding_optimizer=torch.optim.Adagrad,
        embedding_optimizer_args={"lr": rates[1]},
    )
    fitted = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    fitted.fit(module, loader(batches()))
    fitted.save_checkpoint(tmp_path / "model.ckpt")
    again = CTRModule.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert again.hparams["optimizer_args"] == {"lr": rates[0], "betas": (rates[2], 0.5)}


def test_a_subclass_that_passes_keywords_on_loads_too(tmp_path: Path) -> None:
    fitted = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    fitted.fit(Named(alpha=2.0, field_tokens=np.array(FIELD_TOKENS), backbone=FM, embedding_dim=4), loader(batches()))
    fitted.save_checkpoint(tmp_path / "model.ckpt")
    again = Named.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert again.alpha == 2.0
    assert again.field_tokens == FIELD_TOKENS


def test_what_callbacks_see_of_the_loss_is_that_of_the_step(tmp_path: Path) -> None:
    class Sees(Callback):
        monitor = "train_loss"

        def __init__(self) -> None:
            self.losses: list[tuple[float, float]] = []

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            self.losses.append((float(trainer.callback_metrics["train_loss"]), float(pl_module.batch_loss)))

    sees = Sees()
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4)
    trainer(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[sees]).fit(module, loader(batches()))
    assert len(sees.losses) > 1
    assert all(seen == pytest.approx(own) for seen, own in sees.losses)


def test_several_loaders_are_refused(tmp_path: Path) -> None:
    class Numbered(CTRModule):  # as Lightning advises: it tells the plain one itself that it takes one loader
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().test_step(batch, batch_idx)

    module, data = Numbered(FIELD_TOKENS, FM, embedding_dim=4), loader(batches())
    with pytest.raises(BadInput, match="there are 2 loaders to validate on, and metrics of one"):
        trainer(tmp_path).validate(module, [data, data], verbose=False)
    with pytest.raises(BadInput, match="there are 2 loaders to test on"):
        trainer(tmp_path).test(module, [data, data], verbose=False)


def test_a_network_of_sixteen_bits_does_not_read_rows_of_more(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4)
    with pytest.raises(BadInput, match="bf16-true has the network in 16: use bf16-mixed"):
        trainer(tmp_path, precision="bf16-true").test(module, loader(batches()), verbose=False)


def test_sixteen_bits_are_not_averaged_stochastically(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4, embedding_bits=16, optimizer=LazyAdagrad)
    with pytest.raises(BadInput, match="StochasticWeightAveraging would lose most of its small steps"):
        trainer(tmp_path, max_epochs=2, callbacks=[StochasticWeightAveraging(1e-2)]).fit(module, loader(batches()))


def test_first_order_weights_follow_the_backbone() -> None:
    assert CTRModule(FIELD_TOKENS, FM, embedding_dim=4).full_parameters == 15 * 5
    assert CTRModule(FIELD_TOKENS, Sum, embedding_dim=4).full_parameters == 15 * 4
    assert CTRModule(FIELD_TOKENS, Sum, embedding_dim=4).embedding.linear is None


@pytest.mark.parametrize("kind", ["full", "numbered by size", "indexed"])
def test_a_checkpoint_loads_with_nothing_beside_it(tmp_path: Path, kind: str) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4, optimizer=torch.optim.SGD, optimizer_args={"lr": 0.1})
    if kind != "full":
        sizes = torch.tensor([4] * 5 + [2] * 5 + [0] * 5) if kind == "numbered by size" else torch.arange(15) % 5
        module.set_embedding(MultiSizeEmbedding.from_sizes(sizes, 4, sizes > 0), "fingerprint")
        assert (module.embedding.index is None) == (kind == "numbered by size")
    fit = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    fit.fit(module, loader(batches()))
    fit.save_checkpoint(tmp_path / "model.ckpt")
    loaded = CTRModule.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    ids = batches()[0][0]
    assert torch.equal(loaded.eval()(ids), module.eval()(ids))
    assert loaded.optimizer_args == {"lr": 0.1}
    assert loaded.hparams["sizes_fingerprint"] == (None if kind == "full" else "fingerprint")


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4, optimizer_args={"lr": 0.05})
    data = batches(rows=200)
    before = trainer(tmp_path).validate(module, loader(data), verbose=False)[0]["valid_logloss"]
    trainer(tmp_path, max_epochs=5, enable_checkpointing=False).fit(module, loader(data))
    assert trainer(tmp_path).validate(module, loader(data), verbose=False)[0]["valid_logloss"] < before - 0.01


def test_a_model_is_trained_after_it_was_validated(tmp_path: Path) -> None:
    module, data = CTRModule(FIELD_TOKENS, FM, embedding_dim=4), loader(batches())
    quiet = {"enable_checkpointing": False}
    trainer(tmp_path, **quiet).validate(module, data, verbose=False)
    both = trainer(tmp_path, max_epochs=1, **quiet)
    both.fit(module, data, data)
    both.validate(module, data, verbose=False)
    trained = trainer(tmp_path, max_epochs=1, **quiet)
    trained.fit(module, data, data)
    after = {name: float(value) for name, value in trained.callback_metrics.items() if name.startswith("valid")}
    assert after == trainer(tmp_path, **quiet).validate(module, data, verbose=False)[0]


class _Breaks(Callback):
    """Ends a measurement after its first batch, one of two."""

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Ends it."""
        raise RuntimeError("stop")

    on_validation_batch_end = on_test_batch_end  # type: ignore[assignment]


@pytest.mark.parametrize("what", ["test", "validate"])
def test_a_measurement_that_broke_off_leaves_nothing_behind(
    tiny: LightningDataModule, make_trainer: Callable[..., Trainer], what: str
) -> None:
    model = CTRModule(tiny.field_tokens, FM, embedding_dim=4, embedding_init_std=0.5)  # type: ignore[attr-defined]
    measure = lambda *callbacks: getattr(make_trainer(limit_val_batches=1.0, callbacks=[*callbacks]), what)(  # noqa: E731
        model, datamodule=tiny, verbose=False
    )
    expected = measure()
    with pytest.raises(RuntimeError, match="stop"):
        measure(_Breaks())
    assert measure() == expected


def test_predict_returns_probabilities(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, FM, embedding_dim=4)
    found = torch.cat(trainer(tmp_path).predict(module, loader([(ids,) for ids, _ in batches()])))
    assert found.shape == (64,)
    assert ((found > 0) & (found < 1)).all()


def test_a_backbone_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    module = CTRModule(FIELD_TOKENS, Column, embedding_dim=4)
    with pytest.raises(BadInput, match=r"Column.forward returned \(10, 1\); it must return one logit a row, \(10,\)"):
        trainer(tmp_path, max_epochs=1, enable_checkpointing=False).fit(module, loader(batches()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "pme_lightning.backbones.DeepFN"}, "did you mean 'DeepFM'"),
        ({"backbone": "nowhere.Net"}, "no module 'nowhere'"),
        ({"backbone": FM, "backbone_args": {"depth": 3}}, "FM: .*depth"),
        ({"backbone": FM, "embedding_dim": 0}, "embedding_dim is 0"),
        ({"backbone": FM, "embedding_bits": 4}, "embedding_bits is 4; choose 32 or 16"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        CTRModule(FIELD_TOKENS, **arguments)


def test_wrong_optimizer_arguments_are_named() -> None:
    module = CTRModule(FIELD_TOKENS, FM, optimizer_args={"learning_rate": 1})
    with pytest.raises(BadInput, match=r"Adam: .*learning_rate"):
        module.configure_optimizers()


def test_an_optimizer_says_that_it_takes_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_optimizer.py").write_text(
        "import torch\n\nclass Rounds(torch.optim.SGD):\n    takes_sixteen_bits = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for optimizer in ("own_optimizer.Rounds", "torch.optim.SGD"):
        module = CTRModule(
            FIELD_TOKENS, FM, embedding_optimizer=optimizer, embedding_optimizer_args={"lr": 0.1}, embedding_bits=16
        )
        if optimizer == "torch.optim.SGD":
            with pytest.raises(BadInput, match=r"torch\.optim\.SGD rounds to the nearest"):
                module.configure_optimizers()
        else:
            module.configure_optimizers()


def test_a_table_of_16_bits_that_is_put_in_is_described_as_one() -> None:
    module, sizes = CTRModule(FIELD_TOKENS, FM, embedding_dim=4), torch.ones(sum(FIELD_TOKENS), dtype=torch.int64)
    module.set_embedding(MultiSizeEmbedding.from_sizes(sizes, 4, sizes > 0, dtype=torch.bfloat16))
    with pytest.raises(BadInput, match="rounds to the nearest, and small steps would be lost"):
        module.configure_optimizers()
    assert CTRModule(**module.hparams).embedding.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_a_precision_that_makes_the_table_another_is_refused(
    tiny: LightningDataModule, make_trainer: Callable[..., Trainer], precision: str
) -> None:
    trainer = make_trainer(max_epochs=1, precision=precision)
    with pytest.raises(BadInput, match=f"{precision} would turn the embedding table into other numbers"):
        trainer.fit(CTRModule(tiny.field_tokens, FM, embedding_dim=4), datamodule=tiny)


def test_ids_in_another_numbering_are_refused(tiny: LightningDataModule, make_trainer: Callable[..., Trainer]) -> None:
    module = CTRModule(tiny.field_tokens, FM, embedding_dim=4)
    sizes = torch.arange(tiny.num_tokens, 0, -1).clamp(max=4)
    module.set_embedding(MultiSizeEmbedding.from_sizes(sizes, 4, sizes > 0))
    with pytest.raises(BadInput, match="numbers tokens by size, the data module by vocabulary"):
        make_trainer().test(module, datamodule=tiny, verbose=False)
    tiny.renumber(torch.arange(tiny.num_tokens))
    make_trainer().test(module, datamodule=tiny, verbose=False)


@pytest.mark.parametrize("indexed", [False, True], ids=["full size", "with an index"])
def test_a_table_of_the_vocabularys_ids_refuses_others(
    tiny: LightningDataModule, make_trainer: Callable[..., Trainer], indexed: bool
) -> None:
    module = CTRModule(tiny.field_tokens, FM, embedding_dim=4)
    if indexed:
        sizes = torch.arange(tiny.num_tokens).clamp(max=4)
        module.set_embedding(MultiSizeEmbedding.from_sizes(sizes, 4, sizes > 0))
        assert module.embedding.index is not None
    tiny.renumber(torch.randperm(tiny.num_tokens))
    with pytest.raises(BadInput, match=r"by vocabulary, the data module by the sizes .* call data.renumber\(None\)"):
        make_trainer(max_epochs=1).fit(module, datamodule=tiny)
    tiny.renumber(None)
    make_trainer(max_epochs=1).fit(module, datamodule=tiny)


@pytest.mark.parametrize("multi_size", [False, True])
def test_rows_stay_in_32_bits_where_the_network_has_16(multi_size: bool) -> None:
    seen: list[Tensor] = []
    module = CTRModule(FIELD_TOKENS, Sum, embedding_dim=4, embedding_init_std=0.5)
    module.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    if multi_size:
        module.embedding = MultiSizeEmbedding.from_sizes(torch.arange(15).flip(0) % 5, 4, init_std=0.5)
        torch.nn.init.normal_(module.embedding.projection)
    ids = batches()[0][0]
    module(ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(ids).dtype == torch.bfloat16
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "Adagrad", "SGD"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fused_optimizers_clip_as_others_do(
    tiny: LightningDataModule, make_trainer: Callable[..., Trainer], optimizer: str, precision: str
) -> None:
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        arguments = {"lr": 0.05, "fused": fused}
        module = CTRModule(tiny.field_tokens, Sum, None, 4, 0.1, f"torch.optim.{optimizer}", arguments)
        trainer = make_trainer(max_epochs=1, gradient_clip_val=0.01, precision=precision)
        trainer.fit(module, datamodule=tiny)
        found.append(module.embedding.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
