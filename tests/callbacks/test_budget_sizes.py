"""Sizes of a budget: the rounds on the pruned model written out, and the axes that are taken."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from pme_lightning.backbones import DCN, FM
from pme_lightning.callbacks import PruningCallback, TransferCallback, budget_sizes
from pme_lightning.callbacks.pruned_model import PrunedModel
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import AfterWarmup, Epoch, ExpectedInformation, Prefix

Build = Callable[..., Trainer]
D = 4


def searched(data: LightningDataModule, make_trainer: Build, rounds: int) -> tuple[CTRModule, PruningCallback]:
    torch.manual_seed(1)
    module = CTRModule(data.field_tokens, FM, embedding_dim=D, embedding_init_std=0.1, optimizer_args={"lr": 0.05})
    criterion = ExpectedInformation("principal", rounds)
    callback = PruningCallback(criterion, AfterWarmup(epochs=1.0), Prefix(), budget=0.5)
    steps = callback.num_steps(Epoch(len(data.train_dataloader())))
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=steps).fit(module, datamodule=data)
    return module, callback


def test_rounds_make_sizes_again_with_what_rows_tell_of_the_pruned_model(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    _, once = searched(tiny, make_trainer, rounds=0)
    module, again = searched(tiny, make_trainer, rounds=2)
    torch.testing.assert_close(again.scores.table, once.scores.table)  # type: ignore[union-attr]
    total, budget = module.num_tokens * (D + 1), 0.5
    values = int(total * budget) - D * D
    # The two rounds, written out.
    criterion, pruned = again.criterion, PrunedModel(module, again._batches, again.frequencies)  # type: ignore[arg-type]
    information, scores = criterion.information, again.scores
    for _ in range(2):
        allocation = again._sizes.scoring.allocate(scores, values)  # type: ignore[arg-type]
        kept = torch.arange(D) < allocation.sizes.unsqueeze(1)
        information = information.halfway(pruned.information(kept, allocation.linear, again.scores.basis))  # type: ignore[union-attr]
        scores = criterion.scores_given(information, again.frequencies)  # type: ignore[arg-type]
    allocation = again._sizes.scoring.allocate(scores, values)  # type: ignore[arg-type]
    assert torch.equal(again.result.sizes, allocation.sizes)  # type: ignore[union-attr]
    assert torch.equal(again.result.linear, allocation.linear)  # type: ignore[union-attr, arg-type]
    assert torch.equal(again.result_for(0.5).sizes, again.result.sizes)  # type: ignore[union-attr]
    assert not torch.equal(once.result.sizes, again.result.sizes)  # type: ignore[union-attr]


@pytest.mark.parametrize("fused", [False, True])
def test_other_budgets_are_asked_for_before_the_model_is_trained_on(
    tiny: LightningDataModule, make_trainer: Build, fused: bool
) -> None:
    module, callback = searched(tiny, make_trainer, rounds=1)
    module.set_optimizers("torch.optim.Adam", {"lr": 1e-3, "fused": fused})
    make_trainer(max_epochs=1).fit(module, datamodule=tiny)
    with pytest.raises(BadInput, match="ask for the sizes of all budgets first"):
        callback.result_for(0.7)


def test_other_budgets_are_asked_for_before_the_model_is_rebuilt(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    module, callback = searched(tiny, make_trainer, rounds=1)
    assert callback.result_for(0.7).parameters > callback.result_for(0.4).parameters
    make_trainer(max_epochs=1, callbacks=[TransferCallback(callback.result, init="warm")]).fit(module, datamodule=tiny)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="ask for the sizes of all budgets first"):
        callback.result_for(0.7)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_of_a_search_and_its_model_answer_too(
    tiny: LightningDataModule, make_trainer: Build, copied: Callable[[Any], Any]
) -> None:
    module, callback = searched(tiny, make_trainer, rounds=1)
    module.trainer = None  # type: ignore[assignment]
    again, search = copied((module, callback))
    assert torch.equal(search.result_for(0.7).sizes, callback.result_for(0.7).sizes)
    make_trainer(max_epochs=1).fit(again, datamodule=tiny)
    with pytest.raises(BadInput, match="ask for the sizes of all budgets first"):
        search.result_for(0.6)
    callback.result_for(0.6)


@pytest.mark.parametrize("backbone", [FM, DCN])
def test_axes_are_those_whose_sizes_cost_less(
    tiny: LightningDataModule, make_trainer: Build, monkeypatch: pytest.MonkeyPatch, backbone: type
) -> None:
    """Sizes of ``auto`` are those of the axes it takes, found alone; a lead below a tenth of the cost is none."""
    monkeypatch.setattr(budget_sizes, "_LEFT_BY_PROJECTIONS", 0.0)
    found = {}
    for axes in ("auto", "nested", "field"):
        torch.manual_seed(1)
        module = CTRModule(tiny.field_tokens, backbone, embedding_dim=D, embedding_init_std=0.1)
        criterion = ExpectedInformation(axes, rounds=2)  # type: ignore[arg-type]
        found[axes] = PruningCallback(criterion, AfterWarmup(epochs=1.0), Prefix(), budget=0.5)
        steps = found[axes].num_steps(Epoch(len(tiny.train_dataloader())))
        make_trainer(callbacks=[found[axes]], max_epochs=-1, max_steps=steps).fit(module, datamodule=tiny)
    auto = found["auto"]
    losses = {"whole": 0.5, "shared": 0.6, "field": 0.6}

    def loss(_: PrunedModel, kept: Tensor | None = None, *rest: Tensor | None) -> float:
        return losses["whole" if kept is None else "field" if rest[-1].ndim == 3 else "shared"]  # type: ignore[union-attr]

    monkeypatch.setattr(PrunedModel, "loss", loss)
    for field, expected in ((0.6, "shared"), (0.591, "shared"), (0.589, "field"), (0.7, "shared")):
        losses["field"] = field
        result = auto.result_for(0.5)
        assert result.axes == expected
        other = found[{"shared": "nested"}.get(expected, expected)].result
        assert torch.equal(result.sizes, other.sizes)  # type: ignore[union-attr]
        assert torch.equal(result.basis, other.basis)  # type: ignore[union-attr, arg-type]
        if result.linear is not None:
            assert torch.equal(result.linear, other.linear)  # type: ignore[union-attr, arg-type]
    losses["field"] = 0.0
    projections = len(tiny.field_tokens) * D * D
    assert auto.result_for(projections + 1).axes == "field"
    assert auto.result_for(projections).axes == "shared", "nothing is left for values"
    with monkeypatch.context() as few:
        # Shared axes leave twice as many values, at the cost of a single projection.
        few.setattr(budget_sizes, "_LEFT_BY_PROJECTIONS", 0.5)
        more = projections - D * D
        assert auto.result_for(projections + more).axes == "field"
        assert auto.result_for(projections + more - 1).axes == "shared", "projections take too much of it"
    assert auto._sizes is not None
    auto._sizes.scoring = replace(auto._sizes.scoring, allocator=Prefix(min_size=1))
    assert auto.result_for(projections + tiny.num_tokens).axes == "field"
    assert auto.result_for(projections + tiny.num_tokens - 1).axes == "shared", "too little is left for min_size"
    with pytest.raises(BadInput, match="itself takes"):
        found["field"].result_for(projections)
