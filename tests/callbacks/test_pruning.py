"""The search inside a fit: what it gathers, when it prunes, and what it leaves behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from pme_lightning.backbones import DCN, FM
from pme_lightning.callbacks import PEPCallback, PruningCallback, TransferCallback
from pme_lightning.embedding import MultiSizeEmbedding, Shard
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import (
    AfterWarmup,
    Allocation,
    AtInit,
    Criterion,
    Epoch,
    ExpectedInformation,
    Fisher,
    Gradual,
    Magnitude,
    NoTraining,
    Popularity,
    Prefix,
    Random,
    Saliency,
    Schedule,
    Scores,
    SearchResult,
    SplitTokens,
    TopK,
    principal_axes,
)

D = 4
Build = Callable[..., Trainer]


def module(data: LightningDataModule, backbone: type = FM, **kwargs: object) -> CTRModule:
    torch.manual_seed(1)
    options = {"embedding_dim": D, "embedding_init_std": 0.1, "optimizer_args": {"lr": 0.01}}
    return CTRModule(data.field_tokens, backbone, **options | kwargs)


def search(
    data: LightningDataModule,
    make_trainer: Build,
    callback: PruningCallback,
    model: CTRModule | None = None,
    **kw: object,
) -> CTRModule:
    model = model or module(data)
    steps = callback.num_steps(Epoch(len(data.train_dataloader())))
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=steps, **kw).fit(model, datamodule=data)
    assert callback.result is not None
    return model


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 6), (3, 2)])
def test_a_search_may_end_after_so_many_rows(
    tiny: LightningDataModule, make_trainer: Build, accumulated: int, steps: int
) -> None:
    rows = 6 * tiny.batch_size  # type: ignore[attr-defined]
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=5.0, max_rows=rows), Prefix(), budget=0.5)
    trainer = make_trainer(callbacks=[callback], max_epochs=5, accumulate_grad_batches=accumulated)
    trainer.fit(module(tiny), datamodule=tiny)
    assert callback.result is not None
    assert trainer.global_step == steps


@pytest.mark.parametrize("backbone", [FM, DCN])
@pytest.mark.parametrize(
    ("criterion", "schedule", "allocator"),
    [
        (Fisher(), AfterWarmup(epochs=1.0), Prefix()),
        (Saliency(power=1), AtInit(batches=3), TopK()),
        (Fisher(axes="principal"), Gradual(epochs=1.0, prunings=3), Prefix(scope="field")),
        (Saliency(power=2), Gradual(epochs=2.0, prunings=4), TopK()),
        (Magnitude(axes="original"), AfterWarmup(epochs=0.5), TopK()),
        (Popularity(alpha=0.5), NoTraining(), Prefix()),
    ],
)
def test_every_search_meets_its_budget(
    tiny: LightningDataModule,
    make_trainer: Build,
    backbone: type,
    criterion: Criterion,
    schedule: Schedule,
    allocator: object,
) -> None:
    callback = PruningCallback(criterion, schedule, allocator, budget=0.5)
    model = search(tiny, make_trainer, callback, module(tiny, backbone))
    result = callback.result
    table = MultiSizeEmbedding.from_sizes(result.sizes, D, result.linear)
    table.index = None
    full = tiny.num_tokens * (D + (backbone is FM))
    assert result.parameters == full // 2 - D * D
    assert table.num_parameters <= 0.5 * full == 0.5 * model.full_parameters
    assert (result.linear is None) == (backbone is DCN)


def test_at_init_sees_the_untouched_model(tiny: LightningDataModule, make_trainer: Build) -> None:
    before = {name: value.clone() for name, value in module(tiny).state_dict().items()}
    callback = PruningCallback(Saliency(power=2), AtInit(batches=4), Prefix(), budget=0.5)
    model = search(tiny, make_trainer, callback)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_scores_equal_gradients_gathered_by_hand(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Saliency(power=2), AtInit(batches=4), Prefix(), budget=0.5)
    search(tiny, make_trainer, callback)

    model, loader = module(tiny), tiny.train_dataloader()
    loader.sampler.set_epoch(0)
    squares = torch.zeros(tiny.num_tokens, D)
    linear_squares = torch.zeros(tiny.num_tokens)
    for (ids, labels), _ in zip(loader, range(4), strict=False):
        model.zero_grad()
        F.binary_cross_entropy_with_logits(model(ids), labels).backward()
        squares += model.embedding.weight.grad**2
        linear_squares += model.embedding.linear.grad[:, 0] ** 2
    scores = model.embedding.weight.detach() ** 2 * squares
    expected = Prefix().allocate(
        scores,
        callback.result.parameters,
        linear_scores=model.embedding.linear.detach()[:, 0] ** 2 * linear_squares,
        priority=tiny.frequencies,
    )
    assert torch.equal(callback.result.sizes, expected.sizes)
    assert torch.equal(callback.result.linear, expected.linear)


def test_a_warm_up_trains(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=2.0), Prefix(), budget=0.5)
    model = search(tiny, make_trainer, callback)
    assert callback.step == 2 * len(tiny.train_dataloader())
    assert not torch.equal(model.embedding.weight, module(tiny).embedding.weight)


@pytest.mark.parametrize(("accumulated", "steps"), [(2, 5), (3, 4), (10, 1), (20, 1)])
def test_accumulated_gradients_count_as_one_step(
    tiny: LightningDataModule, make_trainer: Build, accumulated: int, steps: int
) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=1.0), Prefix(), budget=0.5)
    trainer = make_trainer(callbacks=[callback], max_epochs=3, accumulate_grad_batches=accumulated)
    trainer.fit(module(tiny), datamodule=tiny)
    # The search ends with the last step of the first epoch, which is made of the batches that are left.
    assert len(tiny.train_dataloader()) == 10
    assert callback.step == trainer.global_step == steps
    assert trainer.current_epoch == 1
    assert trainer.fit_loop.epoch_loop.batch_idx == 9
    assert callback.result is not None


@pytest.mark.parametrize("axes", ["original", "principal"])
def test_a_gradual_search_keeps_what_it_pruned_at_zero(
    tiny: LightningDataModule, make_trainer: Build, axes: str
) -> None:
    callback = PruningCallback(Fisher(axes=axes), Gradual(epochs=2.0, prunings=4), Prefix(), budget=0.5)
    model = search(tiny, make_trainer, callback)
    embedding = model.embedding
    assert not embedding.kept.all()
    # Nothing comes back: a value that was pruned on the way is not in the sizes either.
    assert (callback.result.sizes <= embedding.kept.sum(1)).all()
    assert (embedding.projection is not None) == (axes == "principal")
    if axes == "principal":
        eye = embedding.projection @ embedding.projection.T
        assert torch.allclose(eye, torch.eye(D), atol=1e-5)
        assert torch.allclose(callback.result.basis, embedding.projection.T)


class Forgets(Criterion):
    """Finds rare tokens to be worth the most at first, and all of them nothing after that."""

    asked = 0

    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        self.asked += 1
        worth = 1 / frequencies.clamp(min=1) if self.asked == 1 else torch.zeros(len(weight))
        return Scores(worth[:, None].expand_as(weight).clone(), None if linear is None else worth)


class TurnsAnew(Criterion):
    """Has the table turned each time it is asked, and no axes to set."""

    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        basis = principal_axes(weight, frequencies)
        return Scores((weight @ basis).square(), None if linear is None else linear[:, 0].square(), basis)


def test_gradual_refuses_a_criterion_that_cannot_be_told_that_the_table_is_turned(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    callback = PruningCallback(TurnsAnew(), Gradual(epochs=1.0, prunings=2), Prefix(), budget=0.5)
    with pytest.raises(BadInput, match=r"TurnsAnew turns the table and has no `axes`.*AfterWarmup"):
        search(tiny, make_trainer, callback)


class EachField(Criterion):
    """Has axes for each field, and says so in its scores alone."""

    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Scores:
        basis = torch.stack([torch.eye(weight.shape[1])] * 3)
        return Scores(weight.square(), None if linear is None else linear[:, 0].square(), basis)


def test_axes_of_each_field_are_paid_for_whoever_has_them(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(EachField(), NoTraining(), Prefix(), budget=0.6)
    model = search(tiny, make_trainer, callback)
    result = callback.result
    assert result.projection_parameters == 3 * result.embedding_dim**2
    assert result.parameters + result.projection_parameters <= 0.6 * model.full_parameters
    gradual = PruningCallback(EachField(), Gradual(epochs=1.0, prunings=2), Prefix(), budget=0.6)
    gradual.criterion.axes = "field"
    with pytest.raises(BadInput, match="EachField turns the table and has axes for each field"):
        search(tiny, make_trainer, gradual)


@pytest.mark.parametrize(("sizes", "said"), [(99, "gave sizes from 99 to 99"), (-1, "from -1 to -1"), (4, "gave away")])
def test_an_allocator_is_held_to_what_there_is(
    tiny: LightningDataModule, make_trainer: Build, sizes: int, said: str
) -> None:
    class Generous(Prefix):
        def allocate(self, scores: Tensor, *_: Any, **__: Any) -> Allocation:
            return Allocation(torch.full((len(scores),), sizes), torch.ones(len(scores), dtype=torch.bool))

    with pytest.raises(BadInput, match=f"search.allocator Generous .*{said}"):
        search(tiny, make_trainer, PruningCallback(Popularity(), NoTraining(), Generous(), budget=0.3))


def test_frequencies_may_be_a_list(tiny: LightningDataModule, make_trainer: Build) -> None:
    counts = tiny.frequencies.tolist()
    callback = PruningCallback(Popularity(), NoTraining(), Prefix(), budget=0.6, frequencies=counts)  # type: ignore[arg-type]
    search(tiny, make_trainer, callback)
    assert callback.result.sizes.sum() > 0


def test_a_criterion_without_axes_searches_once(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(TurnsAnew(), AfterWarmup(epochs=1.0), Prefix(), budget=0.5)
    search(tiny, make_trainer, callback)
    assert callback.result.basis is not None


def test_what_was_pruned_comes_after_what_is_worth_nothing(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Forgets(), Gradual(epochs=1.0, prunings=2), Prefix(), budget=0.5)
    embedding = search(tiny, make_trainer, callback).embedding
    assert (callback.result.sizes <= embedding.kept.sum(1)).all()
    assert not (callback.result.linear & ~embedding.kept_linear[:, 0]).any()


def test_what_each_pruning_kept_is_told(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), Gradual(epochs=2.0, start=0.0, prunings=4), Prefix(), budget=0.5)
    model = search(tiny, make_trainer, callback)
    # 20 steps, a pruning every 5th; the last but one is what the masks of the table hold.
    assert [step for step, _ in callback.kept] == [5, 10, 15, 20]
    total = model.embedding.num_parameters
    masks = int(model.embedding.kept.sum()) + int(model.embedding.kept_linear.sum())
    assert callback.kept[2][1] == pytest.approx(masks / total)
    assert callback.kept[3][1] == callback.result.parameters / total
    fresh = PruningCallback(Fisher(), Gradual(epochs=2.0, start=0.0, prunings=4), Prefix(), budget=0.5)
    fresh.load_state_dict(callback.state_dict())
    assert fresh.kept == callback.kept


def test_a_rule_needs_no_step(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Popularity(alpha=1.0), NoTraining(), Prefix(), budget=0.5)
    model = search(tiny, make_trainer, callback)
    assert torch.equal(model.embedding.weight, module(tiny).embedding.weight)
    order = tiny.frequencies.argsort()
    assert (callback.result.sizes[order].diff() >= 0).all()


def test_state_goes_into_the_checkpoint_and_back(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=1.0), Prefix(), budget=0.5)
    search(tiny, make_trainer, callback)
    fresh = PruningCallback(Fisher(), AfterWarmup(epochs=1.0), Prefix(), budget=0.5)
    fresh.load_state_dict(callback.state_dict())
    assert fresh.step == callback.step
    for name, value in callback.criterion.state().items():
        assert torch.equal(fresh.criterion.state()[name], value)


def test_a_budget_that_nothing_fits_is_refused_before_training(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.05)
    with pytest.raises(BadInput, match="a budget that nothing fits"):
        search(tiny, make_trainer, callback)
    assert callback.step == 0


def test_a_multi_size_model_is_not_searched_again(tiny: LightningDataModule, make_trainer: Build) -> None:
    model = module(tiny)
    model.set_embedding(MultiSizeEmbedding.from_sizes(torch.arange(33) % 3, D, torch.ones(33).bool()))
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.5)
    with pytest.raises(BadInput, match="multi-size already"):
        search(tiny, make_trainer, callback, model)


def test_frequencies_of_other_tokens_are_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.5, frequencies=torch.ones(3))
    with pytest.raises(BadInput, match="frequencies of 3 tokens, the model has 33"):
        search(tiny, make_trainer, callback)


def test_one_search_serves_all_budgets(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.5)
    with pytest.raises(RuntimeError, match="fit first"):
        callback.result_for(0.5)
    search(tiny, make_trainer, callback)
    smaller, same, larger = (callback.result_for(budget) for budget in (0.3, 0.5, 0.8))
    assert torch.equal(same.sizes, callback.result.sizes)
    assert torch.equal(same.linear, callback.result.linear)
    # Prefix allocations are nested: a larger budget never takes from any token.
    assert (smaller.sizes <= same.sizes).all()
    assert (same.sizes <= larger.sizes).all()
    assert smaller.parameters < same.parameters < larger.parameters
    assert torch.equal(smaller.basis, same.basis)


def test_gradients_need_steps() -> None:
    with pytest.raises(BadInput, match=r"Fisher needs gradients and .* NoTraining has no steps: choose AfterWarmup"):
        PruningCallback(Fisher(), NoTraining(), Prefix())
    PruningCallback(Magnitude(), NoTraining(), Prefix())


def test_sizes_that_cannot_be_had_are_refused_before_training(tiny: LightningDataModule, make_trainer: Build) -> None:
    # Half of the 33 * (4 + 1) values are 82; the projection takes 16, and three a token are 99.
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(min_size=3), budget=0.5)
    with pytest.raises(BadInput, match="the largest min_size that fits is 2"):
        search(tiny, make_trainer, callback)
    assert callback.step == 0


def test_a_budget_of_everything_is_not_exceeded(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Popularity(), NoTraining(), Prefix(), budget=1.0)
    search(tiny, make_trainer, callback)
    assert callback.result.parameters + D * D == tiny.num_tokens * (D + 1)
    assert callback.result_for("1GB").parameters == callback.result.parameters


@pytest.mark.parametrize("options", [{"max_epochs": 1}, {"max_epochs": 9, "max_steps": 10}])
def test_a_fit_too_short_for_the_search_is_refused(
    tiny: LightningDataModule, make_trainer: Build, options: dict[str, int]
) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=3), Prefix(), budget=0.5)
    with pytest.raises(BadInput, match=r"needs 30 steps and the fit ended after 10: raise what ended it"):
        make_trainer(callbacks=[callback], **options).fit(module(tiny), datamodule=tiny)
    with pytest.raises(BadInput, match="one PruningCallback per fit: this one is 10 steps into another fit"):
        make_trainer(callbacks=[callback], max_epochs=3).fit(module(tiny), datamodule=tiny)


def test_a_fit_of_no_steps_is_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.5)
    with pytest.raises(BadInput, match="the fit ended before it made a step of the search"):
        make_trainer(callbacks=[callback], max_epochs=0).fit(module(tiny), datamodule=tiny)


def test_epochs_of_other_numbers_of_steps_are_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.5)
    callbacks = [GradientAccumulationScheduler({0: 2, 4: 1}), callback]
    with pytest.raises(BadInput, match=r"other steps in each: give the same for all, trainer.accumulate_grad_batches"):
        make_trainer(callbacks=callbacks, max_epochs=9).fit(module(tiny), datamodule=tiny)
    assert callback.step == 0


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_what_broke_a_fit_is_what_is_raised(
    tiny: LightningDataModule, make_trainer: Build, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise raised("broken")

    model = module(tiny)
    monkeypatch.setattr(model, "on_train_batch_end", broken)
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.5)
    handler = signal.getsignal(signal.SIGINT)
    try:
        # Lightning turns an interrupt into leaving the process.
        with pytest.raises(SystemExit if raised is KeyboardInterrupt else raised):
            make_trainer(callbacks=[callback], max_epochs=1).fit(model, datamodule=tiny)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_callback_serves_one_fit(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(), Prefix(), budget=0.5)
    search(tiny, make_trainer, callback)
    with pytest.raises(BadInput, match="one PruningCallback per fit"):
        search(tiny, make_trainer, callback)


def test_a_rule_ends_a_fit_that_was_given_steps(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback, model = PruningCallback(Popularity(), NoTraining(), Prefix(), budget=0.5), module(tiny)
    trainer = make_trainer(callbacks=[callback], max_epochs=2)
    trainer.fit(model, datamodule=tiny)
    assert callback.result is not None
    assert trainer.global_step == 0
    assert torch.equal(model.embedding.weight, module(tiny).embedding.weight)


@pytest.mark.parametrize(("criterion", "schedule"), [(Popularity(), NoTraining()), (Saliency(), AtInit(batches=2))])
def test_a_search_that_is_done_leaves_a_longer_fit_alone(
    tiny: LightningDataModule, make_trainer: Build, criterion: Criterion, schedule: Schedule
) -> None:
    callback, model = PruningCallback(criterion, schedule, Prefix(), budget=0.5), module(tiny)
    trainer = make_trainer(callbacks=[callback], min_epochs=1, max_epochs=2)
    trainer.fit(model, datamodule=tiny)
    assert trainer.global_step == len(tiny.train_dataloader())
    assert not torch.equal(model.embedding.weight, module(tiny).embedding.weight)


def test_fields_are_left_out_while_it_searches_and_at_no_other_time(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    class Watched(Callback):
        def __init__(self) -> None:
            self.shares: list[float] = []

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            left = pl_module.embedding.fields_left
            self.shares.append(1.0 if left is None else float(left(batch[0]).double().mean()))

    model = module(tiny)
    search = PruningCallback(Fisher(), AfterWarmup(epochs=1.0), Prefix(), budget=0.5, field_dropout=0.4)
    watched = Watched()
    make_trainer(callbacks=[search, watched], max_epochs=1).fit(model, datamodule=tiny)
    assert search.result is not None
    assert len(set(watched.shares)) > 1, "other fields in every step"
    assert sum(watched.shares) / len(watched.shares) == pytest.approx(0.6, abs=0.05)
    assert model.embedding.fields_left is None
    for share in (-0.1, 1.0):
        with pytest.raises(BadInput, match=f"search.field_dropout is {share}; it must be at least 0 and below 1"):
            PruningCallback(Fisher(), AfterWarmup(), Prefix(), field_dropout=share)


def test_axes_of_each_field_are_for_a_search_that_prunes_once() -> None:
    with pytest.raises(BadInput, match="axes=field is for a search that prunes once, and Gradual prunes step by step"):
        PruningCallback(ExpectedInformation("field"), Gradual(), Prefix())


@pytest.mark.parametrize(("backbone", "has_network"), [(FM, False), (DCN, True)])
def test_the_criterion_is_told_whether_there_is_a_network(
    tiny: LightningDataModule, make_trainer: Build, backbone: type, has_network: bool
) -> None:
    searched = module(tiny, backbone)
    assert searched.has_network == has_network
    callback = PruningCallback(ExpectedInformation(), AfterWarmup(epochs=1.0), Prefix(), budget=0.5)
    make_trainer(callbacks=[callback], max_epochs=1).fit(searched, datamodule=tiny)
    assert callback.criterion.has_network == has_network


def test_steps_are_counted_from_where_the_trainer_was(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path
) -> None:
    """Ten batches an epoch, four of them a step, the last two a third; and a fit before the search."""
    model = module(tiny)
    before = make_trainer(max_epochs=1, accumulate_grad_batches=4)
    before.fit(model, datamodule=tiny)
    before.save_checkpoint(tmp_path / "full.ckpt")
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=2), Prefix(), budget=0.5)
    trainer = make_trainer(callbacks=[callback], max_epochs=9, accumulate_grad_batches=4)
    trainer.fit(module(tiny), datamodule=tiny, ckpt_path=tmp_path / "full.ckpt")
    assert callback.result is not None
    assert callback.step == 6
    assert trainer.global_step == 3 + 6


def test_the_checkpoint_of_a_search_that_is_done_is_told(
    tiny: LightningDataModule, make_trainer: Build, tmp_path: Path
) -> None:
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=1), Prefix(), budget=0.5)
    trainer = make_trainer(callbacks=[callback], max_epochs=1)
    trainer.fit(module(tiny), datamodule=tiny)
    trainer.save_checkpoint(tmp_path / "done.ckpt")
    again = PruningCallback(Fisher(), AfterWarmup(epochs=1), Prefix(), budget=0.5)
    with pytest.raises(BadInput, match="this checkpoint is of a search that was done after 10 steps"):
        make_trainer(callbacks=[again], max_epochs=3).fit(
            module(tiny), datamodule=tiny, ckpt_path=tmp_path / "done.ckpt"
        )


def test_a_loader_must_say_how_long_it_is(tiny: Any, make_trainer: Build) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            yield from tiny.train_dataloader()

    callback = PruningCallback(Fisher(), AfterWarmup(epochs=1), Prefix(), budget=0.5, frequencies=tiny.frequencies)
    with pytest.raises(BadInput, match="do not say how many batches they have: give the Trainer limit_train_batches"):
        make_trainer(callbacks=[callback], max_epochs=1).fit(module(tiny), DataLoader(Stream(), batch_size=None))


@pytest.mark.parametrize("criterion", [Fisher, ExpectedInformation])
def test_a_criterion_may_search_once_more(
    tiny: LightningDataModule, make_trainer: Build, criterion: type[Criterion]
) -> None:
    """Another search has settled its axes meanwhile."""
    shared = criterion()
    found = []
    for schedule in (AfterWarmup(epochs=1), Gradual(epochs=2), AfterWarmup(epochs=1)):
        callback = PruningCallback(shared, schedule, Prefix(), budget=0.7)
        search(tiny, make_trainer, callback, module(tiny, DCN, backbone_args={"hidden_units": [8]}))
        found.append(callback.result)
    first, _, again = found
    assert first is not None
    assert again is not None
    assert first.sizes.equal(again.sizes)
    assert first.axes == again.axes


def test_a_criterion_that_searched_a_split_table_may_search_a_whole_one(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    used = Random()
    used.tokens = SplitTokens(Shard(0, 2), 33)
    found = [PruningCallback(criterion, NoTraining(), Prefix(), budget=0.5) for criterion in (used, Random())]
    for callback in found:
        search(tiny, make_trainer, callback)
    assert torch.equal(found[0].result.sizes, found[1].result.sizes)  # type: ignore[union-attr]


@pytest.mark.parametrize("criterion", [Fisher, ExpectedInformation])
def test_a_step_that_a_scaler_leaves_out_is_not_gathered(
    tiny: LightningDataModule, make_trainer: Build, criterion: type[Criterion]
) -> None:
    """A loss so scaled that gradients of the first steps overflow, which the scaler answers by scaling them less."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**28, growth_interval=1000))
    callback = PruningCallback(criterion(), AfterWarmup(epochs=2, score_last=1.0), Prefix(), budget=0.7)
    model = search(
        tiny, make_trainer, callback, module(tiny, DCN, backbone_args={"hidden_units": [8]}), plugins=[plugin]
    )
    assert float(plugin.scaler.get_scale()) < 2.0**28  # type: ignore[union-attr]
    assert 0 < callback._gathering.gathered < callback.step
    assert callback.result is not None
    assert model.embedding.weight.isfinite().all()


def test_a_search_whose_gradients_all_overflowed_is_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=0.999999, growth_interval=1000)
    callback = PruningCallback(Fisher(), AfterWarmup(epochs=1), Prefix(), budget=0.7)
    model = module(tiny, DCN, backbone_args={"hidden_units": [8]})
    with pytest.raises(BadInput, match=r"overflowed 16 bits \(trainer.precision 16-mixed\): lower the learning rate"):
        search(tiny, make_trainer, callback, model, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])


def test_a_search_that_diverged_says_so_along_any_axes(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = PruningCallback(ExpectedInformation(), AfterWarmup(epochs=1), Prefix(), budget=0.7)
    model = module(tiny, DCN, backbone_args={"hidden_units": [8]}, optimizer_args={"lr": 1e30})
    with pytest.raises(BadInput, match="the search diverged"):
        search(tiny, make_trainer, callback, model)


@pytest.mark.parametrize("criterion", [Fisher, ExpectedInformation])
def test_a_gradual_search_goes_on_in_its_trainer_as_it_was(
    tiny: LightningDataModule, make_trainer: Build, criterion: type[Criterion]
) -> None:
    found = []
    for first in (1, 2):
        callback = PruningCallback(criterion(), Gradual(epochs=2), Prefix(), budget=0.7)
        model = module(tiny, DCN, backbone_args={"hidden_units": [8]})
        trainer = make_trainer(callbacks=[callback], max_epochs=first)
        try:
            trainer.fit(model, datamodule=tiny)
        except BadInput as error:
            assert "raise what ended it" in str(error)  # noqa: PT017 (the second time there is none)
            trainer.fit_loop.max_epochs = 2
            trainer.fit(model, datamodule=tiny)
        assert callback.result is not None
        found.append(callback)
    assert found[0].kept == found[1].kept
    assert callback.criterion.axes != "original", "what it was asked for"  # type: ignore[attr-defined]
    assert callback.criterion.turned_from is None


def test_a_criterion_of_rows_that_cannot_be_split_is_refused_before_the_search() -> None:
    class OfRows(Magnitude):
        needs_rows = True

    class InHalves(OfRows):
        def update_moments(self, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
            pass

        def update_tokens(self, tokens: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None) -> None:
            pass

    for criterion in (Magnitude(), InHalves()):
        PruningCallback(criterion, AfterWarmup(), Prefix(), 0.2).check_splits()
    with pytest.raises(BadInput, match="OfRows says that it splits, but has no update_moments, which it is given"):
        PruningCallback(OfRows(), AfterWarmup(), Prefix(), 0.2).check_splits()


def test_a_module_of_another_kind_is_refused(make_trainer: Build) -> None:
    class Other(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self.layer(batch).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    rows = DataLoader(torch.ones(8, 2))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="PruningCallback searches the sizes of a CTRModule, not of a Other"):
        make_trainer(callbacks=[PruningCallback(Magnitude(), AfterWarmup(), Prefix(), 0.2)]).fit(Other(), rows)
    with pytest.raises(BadInput, match="PEPCallback searches the sizes of a CTRModule, not of a Other"):
        make_trainer(callbacks=[PEPCallback(AfterWarmup(), TopK(), budget=0.2)]).fit(Other(), rows)
    sizes = SearchResult(torch.ones(2), None, 4, None, "2", "any")
    with pytest.raises(BadInput, match="TransferCallback rebuilds a CTRModule, not a Other"):
        make_trainer(callbacks=[TransferCallback(sizes)]).fit(Other(), rows)
