"""The search with learned thresholds: where they are, what they do, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from pme_lightning.backbones import DCN, FM
from pme_lightning.callbacks import PEPCallback, TransferCallback
from pme_lightning.embedding import MultiSizeEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import AfterWarmup, Epoch, NoTraining, TopK

D = 4
STEPS = 20  # of a search of two epochs over the tiny data
Build = Callable[..., Trainer]


def module(data: LightningDataModule, backbone: type = FM, **kwargs: object) -> CTRModule:
    torch.manual_seed(1)
    options = {"embedding_dim": D, "embedding_init_std": 0.1, "optimizer_args": {"lr": 0.01}}
    return CTRModule(data.field_tokens, backbone, **options | kwargs)


def pep(**kwargs: Any) -> PEPCallback:
    return PEPCallback(AfterWarmup(epochs=2.0), TopK(), **{"budget": 0.5} | kwargs)


def search(
    data: LightningDataModule, make_trainer: Build, callback: PEPCallback, model: CTRModule | None = None, **kw: Any
) -> CTRModule:
    model = model or module(data)
    steps = callback.num_steps(Epoch(len(data.train_dataloader())))
    callbacks = [callback, *kw.pop("callbacks", [])]
    make_trainer(callbacks=callbacks, max_epochs=-1, max_steps=steps, **kw).fit(model, datamodule=data)
    return model


class Watch(Callback):
    """Keeps what is seen at the end of every step."""

    def __init__(self) -> None:
        self.raw: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []
        self.groups: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.raw.append(pl_module.embedding.threshold.raw.detach().clone())
        self.weights.append(pl_module.embedding.weight.detach().clone())
        self.groups = trainer.optimizers[0].param_groups


@pytest.mark.parametrize("backbone", [FM, DCN])
@pytest.mark.parametrize("granularity", ["global", "dimension", "field", "token", "token_dimension"])
def test_every_granularity_meets_its_budget(
    tiny: LightningDataModule, make_trainer: Build, backbone: type, granularity: str
) -> None:
    callback = pep(granularity=granularity)
    model = search(tiny, make_trainer, callback, module(tiny, backbone))
    full = tiny.num_tokens * (D + (backbone is FM))
    assert model.full_parameters == full
    assert callback.result.parameters == full // 2 - D * D
    assert (callback.result.linear is None) == (backbone is DCN)
    assert callback.step == STEPS


def test_thresholds_are_learned_in_a_group_of_their_own(tiny: LightningDataModule, make_trainer: Build) -> None:
    watch, model = Watch(), module(tiny, optimizer_args={"lr": 0.01, "weight_decay": 0.1})
    search(tiny, make_trainer, pep(init=-6.0), model, callbacks=[watch])
    plain, thresholds = watch.groups
    assert (plain["lr"], plain["weight_decay"]) == (0.01, 0.1)
    assert (thresholds["lr"], thresholds["weight_decay"]) == (2 * 6 / STEPS, 0.0)
    assert {p.shape for p in thresholds["params"]} == {(33, D), (33, 1)}
    in_groups = [p for group in watch.groups for p in group["params"]]
    assert len({id(p) for p in in_groups}) == len(in_groups) == len(list(model.parameters())) + 2
    # The decay draws them up, and nearly to 0 where it alone does.
    assert -6 < watch.raw[0].mean() < watch.raw[9].mean() < watch.raw[19].mean()
    assert watch.raw[-1].max() > -1


def test_the_decay_is_an_l2_gradient(tiny: LightningDataModule, make_trainer: Build) -> None:
    watch, lr, decay = Watch(), 0.5, 0.25
    model = module(tiny, optimizer="torch.optim.SGD", optimizer_args={"lr": 0.0})
    # At -40 a threshold is 0 and so is its gradient: what moves it is the decay, s <- s - lr * decay * s.
    search(tiny, make_trainer, pep(init=-40.0, decay=decay, lr=lr), model, callbacks=[watch])
    for step in (1, 2, 3):
        assert torch.allclose(watch.raw[step - 1], torch.tensor(-40.0 * (1 - lr * decay) ** step))


def test_a_value_below_its_threshold_does_not_move(tiny: LightningDataModule, make_trainer: Build) -> None:
    watch, model = Watch(), module(tiny, optimizer="torch.optim.SGD", optimizer_args={"lr": 1.0})
    before = model.embedding.weight.detach().clone()
    threshold = 0.1
    callback = pep(init=float(torch.tensor(threshold).logit()), decay=1e-9, lr=1e-9)
    search(tiny, make_trainer, callback, model, callbacks=[watch])
    moved = (watch.weights[-1] != before).any(1).nonzero().flatten()
    assert len(moved)
    below = before.abs() < threshold
    assert torch.equal(watch.weights[-1][below], before[below])
    assert (watch.weights[0][~below] != before[~below]).any()


def test_sizes_are_those_left_when_the_budget_was_crossed(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback, left = pep(checks=20), {}
    observe = callback.survival.observe

    def keeping(look: int, weight: torch.Tensor, linear: torch.Tensor) -> int:
        alive = observe(look, weight, linear)
        margin, linear_margin = callback.survival.threshold.margins(torch.arange(33), weight, linear)
        assert alive == int((margin > 0).sum() + (linear_margin > 0).sum())
        left[alive] = ((margin > 0).sum(1), linear_margin[:, 0] > 0)
        return alive

    callback.survival.observe = keeping
    search(tiny, make_trainer, callback)
    crossed = [alive for alive in left if 20 < alive < 33 * (D + 1) - 20]
    assert len(crossed) >= 3
    for alive in crossed:
        result = callback.result_for(alive + D * D)
        sizes, linear = left[alive]
        # Values that came back later are the only difference.
        changed = (result.sizes - sizes).abs().sum() + (result.linear != linear).sum()
        assert result.parameters == alive
        assert changed <= 0.1 * alive


def test_a_search_ends_at_its_budget_if_told_so(tiny: LightningDataModule, make_trainer: Build) -> None:
    whole, early, alive = pep(), pep(stop_at_budget=True), []
    observe = early.survival.observe
    early.survival.observe = lambda *seen: alive.append(observe(*seen)) or alive[-1]
    search(tiny, make_trainer, whole)
    search(tiny, make_trainer, early)
    assert whole.step == STEPS
    assert 1 < early.step == len(alive) < STEPS
    assert early.result.parameters == whole.result.parameters
    assert alive[-1] <= early.result.parameters < min(alive[:-1])
    # Only the few values that fill up what survivors leave of the budget may differ.
    assert (early.result.sizes - whole.result.sizes).abs().sum() <= 0.15 * early.result.parameters


def test_without_crossing_the_margin_cuts(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback, watch = pep(init=-40.0, lr=1e-6), Watch()
    model = search(tiny, make_trainer, callback, module(tiny, DCN), callbacks=[watch])
    # Thresholds of 0: the margin is the magnitude.
    expected = TopK().allocate(watch.weights[-1].abs(), callback.result.parameters, priority=tiny.frequencies)
    assert torch.equal(callback.result.sizes, expected.sizes)
    assert torch.equal(model.embedding.weight.detach(), watch.weights[-1])


def test_thresholds_leave_with_the_fit(tiny: LightningDataModule, make_trainer: Build) -> None:
    callback = pep()
    model = search(tiny, make_trainer, callback)
    assert model.embedding.threshold is None
    assert set(model.state_dict()) == set(module(tiny).state_dict())
    # Values are as they were read: most are pruned by now.
    assert (model.embedding.weight == 0).float().mean() > 0.5
    assert callback.result_for(0.3).parameters < callback.result.parameters
    transfer = TransferCallback(callback.result, init="warm")
    make_trainer(callbacks=[transfer], max_epochs=1).fit(model, datamodule=tiny)
    assert isinstance(model.embedding, MultiSizeEmbedding)


def test_thresholds_leave_a_search_that_fails(tiny: LightningDataModule, make_trainer: Build) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 5:
                raise ValueError("out of luck")

    model = module(tiny)
    with pytest.raises(ValueError, match="out of luck"):
        search(tiny, make_trainer, pep(), model, callbacks=[Fails()])
    assert model.embedding.threshold is None
    assert set(model.state_dict()) == set(module(tiny).state_dict())
    assert bool(model.embedding.weight.all())


def test_first_order_weights_do_not_start_below_their_thresholds(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    model = module(tiny)
    assert not model.embedding.linear.any()
    callback = pep()
    callback.setup(make_trainer(), model, "fit")
    assert model.embedding.linear.all()
    assert 0.05 < model.embedding.linear.std() < 0.2


def test_an_interrupted_search_goes_on(tiny: LightningDataModule, make_trainer: Build, tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 10:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole = pep()
    whole_model = search(tiny, make_trainer, whole, callbacks=[Save()])
    half = CTRModule.load_from_checkpoint(tmp_path / "half.ckpt", weights_only=True)
    assert half.embedding.threshold is not None
    resumed = pep()
    model = module(tiny)
    trainer = make_trainer(callbacks=[resumed], max_epochs=-1, max_steps=STEPS)
    trainer.fit(model, datamodule=tiny, ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(resumed.result.sizes, whole.result.sizes)
    assert torch.equal(resumed.result.linear, whole.result.linear)
    assert torch.equal(model.embedding.weight, whole_model.embedding.weight)


def test_a_table_of_zeros_is_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    with pytest.raises(BadInput, match=r"raise model\.embedding_init_std"):
        search(tiny, make_trainer, pep(), module(tiny, embedding_init_std=0.0))


def test_an_optimizer_without_the_thresholds_is_refused(tiny: LightningDataModule, make_trainer: Build) -> None:
    model = module(tiny)
    model.configure_optimizers = lambda: torch.optim.Adam(model.backbone.parameters())
    with pytest.raises(BadInput, match="no optimizer of the module has the thresholds"):
        search(tiny, make_trainer, pep(), model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": 0.0}, "search.init is 0.0"),
        ({"decay": 0.0}, "search.decay is 0.0"),
        ({"lr": -1.0}, "search.lr is -1.0"),
        ({"checks": 0}, "search.checks is 0"),
        ({"checks": 256}, "search.checks is 256"),
        ({"granularity": "feature"}, "granularity 'feature' is unknown"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        pep(**arguments)


def test_a_search_of_no_steps_is_refused() -> None:
    with pytest.raises(BadInput, match="NoTraining does not suit PEPCallback"):
        PEPCallback(NoTraining(), TopK())
