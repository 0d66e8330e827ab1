"""The transfer: what the rebuilt model says, and that nothing of the full-size table stays behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from pme_lightning.backbones import DCN, FM, DeepFM
from pme_lightning.callbacks import TransferCallback
from pme_lightning.embedding import FieldDecays, MultiSizeEmbedding, Shard
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.optim import LazyAdagrad, prior_variance
from pme_lightning.search import SearchResult

D = 8
Build = Callable[..., Trainer]


def sizes_of(table: MultiSizeEmbedding) -> Tensor:
    """Each token's size, in the numbering of the ids."""
    sizes = torch.tensor([c.size for c in table.classes for _ in range(c.count)])
    return sizes if table.index is None else sizes[table.index.long()]


def module(data: LightningDataModule, backbone: type = FM, **kwargs: Any) -> CTRModule:
    torch.manual_seed(1)
    model = CTRModule(data.field_tokens, backbone, embedding_dim=D, embedding_init_std=0.3, **kwargs)
    if model.embedding.linear is not None:
        torch.nn.init.normal_(model.embedding.linear)
    return model


def result(V: int, first_order: bool = True, seed: int = 0, **kwargs: Any) -> SearchResult:
    generator = torch.Generator().manual_seed(seed)
    found = {
        "sizes": torch.randint(0, D + 1, (V,), generator=generator),
        "linear": torch.rand(V, generator=generator) < 0.5 if first_order else None,
        "embedding_dim": D,
        "basis": torch.linalg.qr(torch.randn(D, D, generator=generator))[0],
        "budget": "0.5",
        "criterion": "Fisher",
    }
    return SearchResult(**found | kwargs)


def fit(
    data: LightningDataModule, make_trainer: Build, model: CTRModule, transfer: TransferCallback, **kw: Any
) -> Trainer:
    trainer = make_trainer(callbacks=[transfer], max_epochs=1, **kw)
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.mark.parametrize("backbone", [FM, DeepFM, DCN])
def test_with_all_sizes_full_the_outputs_stay_the_same(tiny: LightningDataModule, backbone: type) -> None:
    model = module(tiny, backbone)
    ids = tiny.data.splits["test"][0]
    before = model(torch.from_numpy(ids)).detach()
    V = tiny.num_tokens
    linear = None if backbone is DCN else torch.ones(V, dtype=torch.bool)
    full = result(V, sizes=torch.full((V,), D), linear=linear)
    TransferCallback(full, init="warm").rebuild(model)
    assert isinstance(model.embedding, MultiSizeEmbedding)
    assert torch.allclose(model(torch.from_numpy(ids)), before, atol=1e-6)


@pytest.mark.parametrize("init", ["warm", "scratch"])
def test_a_table_of_16_bits_stays_one(tiny: LightningDataModule, init: str) -> None:
    found = result(tiny.num_tokens)
    narrow, wide = module(tiny, embedding_bits=16), module(tiny)
    wide.embedding.load_state_dict({name: p.float() for name, p in narrow.embedding.state_dict().items()})
    for model in (narrow, wide):
        torch.manual_seed(2)
        TransferCallback(found, init=init).rebuild(model)
    assert narrow.embedding.dtype == torch.bfloat16
    assert narrow.embedding.projection.dtype == torch.float32
    assert narrow.hparams["embedding_bits"] == 16
    if init == "warm":
        assert torch.equal(narrow.embedding.values, wide.embedding.values.bfloat16())
    again = CTRModule(**narrow.hparams)
    again.load_state_dict(narrow.state_dict())
    ids = torch.from_numpy(tiny.data.splits["test"][0])
    assert torch.equal(again(ids), narrow(ids))


def test_warm_outputs_equal_those_of_the_projected_full_table(tiny: LightningDataModule, make_trainer: Build) -> None:
    found = result(tiny.num_tokens)
    model, reference = module(tiny), module(tiny)
    with torch.no_grad():
        kept = torch.arange(D) < found.sizes[:, None]
        reference.embedding.weight.copy_((reference.embedding.weight @ found.basis * kept) @ found.basis.T)
        reference.embedding.linear.mul_(found.linear[:, None])
        expected = [reference(ids) for ids, _ in tiny.test_dataloader()]
    fit(tiny, make_trainer, model, TransferCallback(found, init="warm"), limit_train_batches=0)
    # The data module numbers tokens by size now: the same rows come with other ids.
    for (ids, _), logits in zip(tiny.test_dataloader(), expected, strict=True):
        assert torch.allclose(model(ids), logits, atol=1e-5)
    assert model.embedding.index is None


@pytest.mark.parametrize("init", ["scratch", "warm"])
def test_axes_of_each_field_become_projections_of_each(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path, init: str
) -> None:
    fields = len(tiny.field_tokens)
    found = result(tiny.num_tokens, basis=torch.linalg.qr(torch.randn(fields, D, D)).Q)
    model, reference = module(tiny), module(tiny)
    with torch.no_grad():
        kept = (torch.arange(D) < found.sizes[:, None]).split(tiny.field_tokens)
        rows = reference.embedding.weight.split(tiny.field_tokens)
        cut = [((own @ axes) * has) @ axes.T for own, axes, has in zip(rows, found.basis, kept, strict=True)]
        reference.embedding.weight.copy_(torch.cat(cut))
        reference.embedding.linear.mul_(found.linear[:, None])
        expected = [reference(ids) for ids, _ in tiny.test_dataloader()]
    trainer = fit(tiny, make_trainer, model, TransferCallback(found, init=init), limit_train_batches=0)  # type: ignore[arg-type]
    assert torch.equal(model.embedding.projection, found.basis.transpose(1, 2))
    if init == "warm":
        for (ids, _), logits in zip(tiny.test_dataloader(), expected, strict=True):
            assert torch.allclose(model(ids), logits, atol=1e-5)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    loaded = CTRModule.load_from_checkpoint(tmp_path / "best.ckpt", map_location="cpu", weights_only=True)
    ids = next(iter(tiny.test_dataloader()))[0]
    assert torch.equal(loaded(ids), model(ids))
    other = CTRModule([tiny.num_tokens], FM, embedding_dim=D)
    with pytest.raises(BadInput, match=f"axes of {fields} fields, this model has 1"):
        TransferCallback(found).rebuild(other)


def test_scratch_starts_afresh_in_the_principal_axes(tiny: LightningDataModule) -> None:
    found, model = result(tiny.num_tokens), module(tiny)
    old = model.embedding.weight.detach()
    TransferCallback(found, init="scratch").rebuild(model)
    assert torch.equal(model.embedding.projection, found.basis.T)
    rows = model.embedding.tables()[0]
    assert not torch.isin(rows[:, 1:], old @ found.basis).any()


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from tensors(inner)


@pytest.mark.parametrize("init", ["scratch", "warm"])
def test_nothing_of_full_size_is_left_anywhere(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path, init: str
) -> None:
    V = tiny.num_tokens
    found = result(V, sizes=torch.arange(V) % 3, linear=torch.arange(V) % 2 == 0)
    model = module(tiny)
    trainer = fit(tiny, make_trainer, model, TransferCallback(found, init=init))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    per_token = found.parameters
    everywhere = {
        "parameters": list(model.parameters()),
        "buffers": list(model.buffers()),
        "gradients": [p.grad for p in model.parameters() if p.grad is not None],
        "optimizer state": list(tensors(dict(trainer.optimizers[0].state))),
        "checkpoint": list(tensors(checkpoint)),
    }
    for place, values in everywhere.items():
        assert all(value.numel() < V * D for value in values), place
        assert values or place == "buffers", place
    assert sum(p.numel() for p in model.embedding.parameters()) == per_token + D * D
    assert model.embedding.values.grad.numel() == per_token
    assert sum(t.numel() for t in tensors(checkpoint["state_dict"])) == sum(p.numel() for p in model.parameters())


def test_the_fit_trains_the_new_table_and_its_checkpoint_reads_alike(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path
) -> None:
    model = module(tiny)
    transfer = TransferCallback(result(tiny.num_tokens))
    trainer = fit(tiny, make_trainer, model, transfer)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = CTRModule.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    ids = next(iter(tiny.test_dataloader()))[0]
    assert torch.equal(model.eval()(ids), loaded.eval()(ids))
    order = transfer.result.order()
    assert torch.equal(sizes_of(loaded.embedding), transfer.result.sizes[order])
    assert loaded.hparams["sizes_fingerprint"] == transfer.result.fingerprint()


def test_without_renumbering_an_index_is_kept_and_counted(tiny: LightningDataModule) -> None:
    model = module(tiny)
    found = result(tiny.num_tokens)
    TransferCallback(found).rebuild(model)
    assert model.embedding.index_bytes == 4 * tiny.num_tokens
    assert torch.equal(sizes_of(model.embedding), found.sizes)


def test_sizes_come_from_a_file_too(tiny: LightningDataModule, tmp_path: Path) -> None:
    found = result(tiny.num_tokens)
    found.save(tmp_path / "sizes.safetensors")
    model = module(tiny)
    TransferCallback(tmp_path / "sizes.safetensors").rebuild(model)
    assert torch.equal(sizes_of(model.embedding), found.sizes)


@pytest.mark.parametrize(
    ("backbone", "found", "said"),
    [
        (FM, result(7), "sizes are of 7 tokens, the data has 33"),
        (DCN, result(33), "searched with first-order weights, and this model's backbone DCN has none"),
        (
            FM,
            result(33, first_order=False),
            "searched without first-order weights, and this model's backbone FM has",
        ),
        (FM, result(33, embedding_dim=9, basis=None), "searched with model.embedding_dim=9, this model has 8"),
        (FM, result(33, spectrum=torch.ones(9, D)), "the sizes have a spectrum of 9 fields, this model has"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    tiny: LightningDataModule, backbone: type, found: SearchResult, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        TransferCallback(found).rebuild(module(tiny, backbone))


@pytest.mark.parametrize("found", [result(7), result(33, first_order=False), result(33, embedding_dim=9, basis=None)])
def test_sizes_that_do_not_fit_leave_the_data_alone(
    tiny: LightningDataModule, make_trainer: Build, found: SearchResult
) -> None:
    before = next(iter(tiny.test_dataloader()))[0]
    with pytest.raises(BadInput, match=r"the sizes (are|were)"):
        fit(tiny, make_trainer, module(tiny), TransferCallback(found))
    assert torch.equal(next(iter(tiny.test_dataloader()))[0], before)


def test_sizes_of_the_model_but_not_of_the_data_are_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    model = CTRModule([4, 3], FM, embedding_dim=D)
    with pytest.raises(BadInput, match="sizes are of 7 tokens, the data has 33"):
        fit(tiny, make_trainer, model, TransferCallback(result(7)))


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_multi_size_model_takes_no_other_sizes(tiny: LightningDataModule, make_trainer: Build, stage: str) -> None:
    model, found = module(tiny), result(33)
    fit(tiny, make_trainer, model, TransferCallback(found), limit_train_batches=0)
    again = make_trainer(callbacks=[TransferCallback(found)], limit_train_batches=0, max_epochs=1)
    getattr(again, stage)(model, datamodule=tiny)
    other = make_trainer(callbacks=[TransferCallback(result(33, seed=1))], limit_train_batches=0, max_epochs=1)
    with pytest.raises(BadInput, match="built with other sizes"):
        getattr(other, stage)(model, datamodule=tiny)


def test_a_table_with_an_index_is_given_the_ids_of_the_vocabulary(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    model, transfer = module(tiny), TransferCallback(result(33))
    before = next(iter(tiny.test_dataloader()))[0]
    transfer.rebuild(model)
    make_trainer(callbacks=[transfer]).test(model, datamodule=tiny, verbose=False)
    assert torch.equal(next(iter(tiny.test_dataloader()))[0], before)


def test_a_full_size_table_is_tested_with_the_ids_of_the_vocabulary(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    before = next(iter(tiny.test_dataloader()))[0]
    make_trainer(callbacks=[TransferCallback(result(33))]).test(module(tiny), datamodule=tiny, verbose=False)
    assert torch.equal(next(iter(tiny.test_dataloader()))[0], before)


@pytest.mark.parametrize("renumbered", [True, False])
def test_weight_decay_goes_by_what_the_search_expects(tiny: LightningDataModule, renumbered: bool) -> None:
    spectrum = 0.2 + torch.rand(len(tiny.field_tokens), D, generator=torch.Generator().manual_seed(2))
    prior = prior_variance(len(tiny.field_tokens))
    found = result(33, spectrum=spectrum)
    model = module(tiny, DeepFM, embedding_optimizer=LazyAdagrad)
    TransferCallback(found).rebuild(model, renumbered)
    assert isinstance(model.embedding, MultiSizeEmbedding)
    blocks = model.embedding.row_blocks()[model.embedding.values]
    fields = torch.arange(len(tiny.field_tokens)).repeat_interleave(torch.tensor(tiny.field_tokens))[found.order()]
    owners = fields.split([c.count for c in model.embedding.classes])
    tokens = [(c, own) for c, own in zip(model.embedding.classes, owners, strict=True) if c.width]
    for (c, own), block in zip(tokens, blocks, strict=True):
        if c.size:
            variances = prior / block.decays_of(0, c.count)[:, int(c.linear) :]
            torch.testing.assert_close(variances, (prior + spectrum[own, : c.size]) / 2)
    again = CTRModule(**model.hparams).embedding
    assert isinstance(again, MultiSizeEmbedding)
    for ours, theirs in zip(blocks, again.row_blocks()[again.values], strict=True):
        assert torch.equal(ours.decays, theirs.decays)
        assert ours.groups == theirs.groups


def test_weight_decay_is_the_optimizers_where_the_search_expects_nothing(tiny: LightningDataModule) -> None:
    def decays(decay_by_field: bool = True, **found: Any) -> FieldDecays | None:
        model = module(tiny, DeepFM, embedding_optimizer=LazyAdagrad)
        sizes = result(33, **{"spectrum": torch.ones(len(tiny.field_tokens), D)} | found)
        TransferCallback(sizes, decay_by_field=decay_by_field).rebuild(model)
        assert isinstance(model.embedding, MultiSizeEmbedding)
        return model.embedding.field_decays

    assert decays() is not None
    assert decays(decay_by_field=False) is None
    assert decays(spectrum=None) is None
    assert decays(basis=None) is None


def test_a_model_that_is_trained_on_decays_as_is_said_then(tiny: LightningDataModule, make_trainer: Build) -> None:
    spectrum = torch.rand(len(tiny.field_tokens), D, generator=torch.Generator().manual_seed(3)) + 0.1
    found = result(tiny.num_tokens, spectrum=spectrum)
    model = module(tiny, DeepFM, embedding_optimizer=LazyAdagrad)
    TransferCallback(found).rebuild(model, renumbered=True)
    assert isinstance(model.embedding, MultiSizeEmbedding)
    decays = model.hparams["field_decays"]
    for says in (True, False, True):
        transfer = TransferCallback(found, decay_by_field=says)
        make_trainer(callbacks=[transfer], max_epochs=0).fit(model, datamodule=tiny)
        assert (model.embedding.field_decays is not None) == says
        assert model.hparams["field_decays"] == (decays if says else None)
    tiny.renumber(None)


def test_arguments_are_checked() -> None:
    with pytest.raises(BadInput, match="choose 'scratch' or 'warm'"):
        TransferCallback(result(3), init="cold")
    with pytest.raises(BadInput, match="no such file"):
        TransferCallback("nowhere.safetensors")
    with pytest.raises(BadInput, match="the search has no result"):
        TransferCallback(None)


def test_the_fingerprint_tells_sizes_apart() -> None:
    assert result(33).fingerprint() == result(33).fingerprint()
    assert result(33).fingerprint() != result(33, seed=1).fingerprint()
    assert result(33).fingerprint() != result(33, linear=torch.ones(33, dtype=torch.bool)).fingerprint()


def test_averages_come_after_the_transfer(tiny: LightningDataModule, make_trainer: Build) -> None:
    found = result(tiny.num_tokens)
    for use_buffers, first, said in (
        (False, True, "goes before callbacks that average"),
        (True, False, "whole numbers"),
    ):
        average, transfer = EMAWeightAveraging(decay=0.9, use_buffers=use_buffers), TransferCallback(found)
        callbacks = [average, transfer] if first else [transfer, average]
        with pytest.raises(BadInput, match=said):
            make_trainer(max_epochs=1, callbacks=callbacks).fit(module(tiny), datamodule=tiny)
        tiny.renumber(None)


def test_averages_of_a_split_table_are_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    """A checkpoint would have the averages of the main process's rows for all rows."""
    average = EMAWeightAveraging(decay=0.99, use_buffers=False)
    model = CTRModule(tiny.field_tokens, FM, embedding_dim=D, shard=Shard(0, 2))
    with pytest.raises(BadInput, match="EMAWeightAveraging keeps a copy of the whole model, and trainer=sharded"):
        make_trainer(max_epochs=1, callbacks=[average]).fit(model, datamodule=tiny)


@pytest.mark.parametrize("transfers", [False, True])
def test_averages_of_16_bits_are_refused(tiny: LightningDataModule, make_trainer: Build, transfers: bool) -> None:
    """A hundredth of the way is less than a last place: they would stay where they started."""
    average = EMAWeightAveraging(decay=0.99, use_buffers=False)
    before = [TransferCallback(result(tiny.num_tokens))] if transfers else []
    model = module(tiny, embedding_optimizer="pme_lightning.optim.LazyAdagrad", embedding_bits=16)
    with pytest.raises(BadInput, match="EMAWeightAveraging would lose most of its small steps in values of 16 bits"):
        make_trainer(max_epochs=1, callbacks=[*before, average]).fit(model, datamodule=tiny)
    tiny.renumber(None)
