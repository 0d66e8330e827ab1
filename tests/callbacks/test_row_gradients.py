"""What a search that looks at single rows is given: the gradient of each row's own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from pme_lightning.backbones import DCN, FM
from pme_lightning.callbacks import PruningCallback
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import AfterWarmup, AtInit, Epoch, ExpectedInformation, Gradual, NoTraining, Prefix, Scores

Build = Callable[..., Trainer]


class Recorded(ExpectedInformation):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def update_rows(
        self, ids: Tensor, frequencies: Tensor, row_grad: Tensor, linear_grad: Tensor | None = None
    ) -> None:
        super().update_rows(ids, frequencies, row_grad, linear_grad)
        self.frequencies = frequencies
        self.seen.append((ids, row_grad, linear_grad))


class Batches(Callback):
    """Keeps the labels of every batch."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.labels.append(batch[1])


def module(data: LightningDataModule, backbone: type) -> CTRModule:
    torch.manual_seed(1)
    return CTRModule(data.field_tokens, backbone, embedding_dim=4, embedding_init_std=0.3)


@pytest.mark.parametrize("backbone", [FM, DCN])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_they_are_those_of_one_row_alone(
    tiny: LightningDataModule, make_trainer: Build, backbone: type, accumulated: int
) -> None:
    model, criterion = module(tiny, backbone), Recorded()
    callback = PruningCallback(criterion, AtInit(batches=2), Prefix(), budget=0.6)
    batches = Batches()
    trainer = make_trainer(
        callbacks=[callback, batches], max_epochs=-1, max_steps=2, accumulate_grad_batches=accumulated
    )
    trainer.fit(model, datamodule=tiny)
    assert callback.result is not None
    assert model.embedding.observer is None, "nothing watches after the search"
    assert len(criterion.seen) == 2 * accumulated
    labels = batches.labels[1]
    ids, row_grads, linear_grads = criterion.seen[1]
    assert torch.equal(criterion.frequencies, tiny.frequencies[criterion.seen[-1][0].long()])
    assert (linear_grads is None) == (backbone is DCN)
    for row in (0, 5):
        # AtInit leaves the weights as they are.
        embeddings = model.embedding.weight[ids[row]].detach().unsqueeze(0).requires_grad_()
        if backbone is FM:
            linear = model.embedding.linear[ids[row], 0].detach().unsqueeze(0).requires_grad_()  # type: ignore[index]
            logits = model.backbone(embeddings, linear)
        else:
            linear, logits = None, model.backbone(embeddings)
        F.binary_cross_entropy_with_logits(logits, labels[row].reshape(1)).backward()
        torch.testing.assert_close(row_grads[row], embeddings.grad[0], rtol=1e-4, atol=1e-6)  # type: ignore[index]
        if linear is not None and linear_grads is not None:
            torch.testing.assert_close(linear_grads[row], linear.grad[0], rtol=1e-4, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("schedule", [AfterWarmup(epochs=0.5), Gradual(epochs=1.0, prunings=3)])
def test_every_schedule_finds_sizes_within_the_budget(
    tiny: LightningDataModule, make_trainer: Build, schedule: AfterWarmup | Gradual
) -> None:
    model = module(tiny, FM)
    callback = PruningCallback(ExpectedInformation("principal"), schedule, Prefix(), budget=0.4)
    steps = callback.num_steps(Epoch(len(tiny.train_dataloader())))
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=steps).fit(model, datamodule=tiny)
    assert callback.result is not None
    total = model.num_tokens * 5
    assert 0.3 * total < callback.result.parameters <= 0.4 * total - 16
    assert (callback.result_for(0.2).sizes <= callback.result.sizes).all()


def test_a_search_without_steps_is_refused() -> None:
    with pytest.raises(BadInput, match="ExpectedInformation needs gradients"):
        PruningCallback(ExpectedInformation(), NoTraining(), Prefix())


def test_a_frozen_table_is_named(tiny: LightningDataModule, make_trainer: Build) -> None:
    model = module(tiny, FM)
    model.embedding.requires_grad_(False)
    callback = PruningCallback(ExpectedInformation(), AfterWarmup(epochs=1), Prefix())
    with pytest.raises(BadInput, match="no gradient at the embedding: is it frozen"):
        make_trainer(callbacks=[callback], max_epochs=2).fit(model, datamodule=tiny)


class Fails(Callback):
    """Ends a fit early."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 8:
            raise OSError("the disk is full")


def test_a_search_that_failed_leaves_nothing_on_the_model(tiny: LightningDataModule, make_trainer: Build) -> None:
    model, criterion = module(tiny, FM), Recorded()
    callback = PruningCallback(criterion, AfterWarmup(epochs=1), Prefix(), field_dropout=0.3)
    with pytest.raises(OSError, match="disk"):
        make_trainer(callbacks=[callback, Fails()], max_epochs=2).fit(model, datamodule=tiny)
    assert criterion.seen
    assert model.embedding.observer is None
    assert model.embedding.fields_left is None


class Odd(ExpectedInformation):
    """Gives scores that do not fit the table."""

    def __init__(self, change: Callable[[Scores], Any]) -> None:
        super().__init__(rounds=0)
        self.change = change

    def scores(self, weight: Tensor, linear: Tensor | None, frequencies: Tensor) -> Any:
        return self.change(super().scores(weight, linear, frequencies))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda scores: scores.table, "Odd.scores returned a Tensor; it must return"),
        (lambda scores: Scores(scores.table[1:], scores.linear), r"scores of shape \(32, 4\); the table has \(33, 4\)"),
        (lambda scores: Scores(scores.table), "gave first-order weights scores of shape none; the table needs"),
    ],
)
def test_scores_that_do_not_fit_are_the_criterions(
    tiny: LightningDataModule, make_trainer: Build, change: Callable[[Scores], Any], said: str
) -> None:
    callback = PruningCallback(Odd(change), AfterWarmup(epochs=0.5), Prefix())
    with pytest.raises(BadInput, match=said):
        make_trainer(callbacks=[callback], max_epochs=2).fit(module(tiny, FM), datamodule=tiny)


class Deaf(nn.Module):
    """A backbone that takes first-order weights and makes nothing of them."""

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(num_fields * embedding_dim, 1)

    def forward(self, embeddings: Tensor, linear: Tensor | None = None) -> Tensor:
        return self.layer(embeddings.flatten(1)).squeeze(1)


def test_first_order_weights_that_a_backbone_does_not_use_are_worth_nothing(
    tiny: LightningDataModule, make_trainer: Build
) -> None:
    callback = PruningCallback(ExpectedInformation(), AtInit(batches=2), Prefix(), budget=0.6)
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=2).fit(module(tiny, Deaf), datamodule=tiny)
    assert callback.result is not None
    assert callback.scores is not None
    assert callback.scores.linear is not None
    assert not callback.scores.linear.any()
    assert callback.result.sizes.any()
