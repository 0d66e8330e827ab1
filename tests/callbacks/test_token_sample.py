"""Sizes of large tables: tried on some tokens until the last time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, Trainer

from pme_lightning.backbones import DCN, FM
from pme_lightning.callbacks import PruningCallback, token_sample
from pme_lightning.callbacks.token_sample import TokenSample
from pme_lightning.module import CTRModule
from pme_lightning.search import AfterWarmup, Epoch, ExpectedInformation, Prefix

Build = Callable[..., Trainer]
D = 4
CPU = torch.device("cpu")


@given(num_tokens=st.integers(1, 2000), ids=st.lists(st.integers(0, 10_000), max_size=20))
def test_it_has_the_tokens_of_rows_and_some_at_even_distances(num_tokens: int, ids: list[int]) -> None:
    ids = [each % num_tokens for each in ids]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_sample, "_DRAWN", 20)
        sample = TokenSample.of([torch.tensor(ids, dtype=torch.int32).view(-1, 1)], num_tokens, CPU)
    if num_tokens < 80:
        assert sample is None
        return
    assert sample is not None
    drawn = sample.tokens[sample.drawn]
    assert sorted({*ids, *drawn.tolist()}) == sample.tokens.tolist()
    assert len(set(drawn.diff().tolist())) == 1
    assert 20 <= len(drawn) <= 25
    assert sample.share == len(drawn) / num_tokens
    assert int(drawn[0]) + num_tokens - 1 - int(drawn[-1]) < 2 * int(drawn[1] - drawn[0]), "from end to end"


def searched(data: LightningDataModule, make_trainer: Build, backbone: type, axes: str) -> PruningCallback:
    torch.manual_seed(1)
    module = CTRModule(data.field_tokens, backbone, embedding_dim=D, embedding_init_std=0.1)
    callback = PruningCallback(ExpectedInformation(axes, rounds=2), AfterWarmup(epochs=1.0), Prefix(), budget=0.5)  # type: ignore[arg-type]
    steps = callback.num_steps(Epoch(len(data.train_dataloader())))
    make_trainer(callbacks=[callback], max_epochs=-1, max_steps=steps).fit(module, datamodule=data)
    return callback


@pytest.mark.parametrize("backbone", [FM, DCN])
@pytest.mark.parametrize("axes", ["nested", "auto"])
def test_sizes_are_those_of_all_tokens_where_some_are_all(
    tiny: LightningDataModule, make_trainer: Build, monkeypatch: pytest.MonkeyPatch, backbone: type, axes: str
) -> None:
    whole = searched(tiny, make_trainer, backbone, axes)

    def everything(_: object, num_tokens: int, __: torch.device) -> TokenSample:
        return TokenSample(torch.arange(num_tokens), torch.ones(num_tokens, dtype=torch.bool), 1.0)

    monkeypatch.setattr(TokenSample, "of", everything)
    sampled = searched(tiny, make_trainer, backbone, axes)
    for budget in (0.5, 0.8):
        expected, found = whole.result_for(budget), sampled.result_for(budget)
        assert found.axes == expected.axes
        torch.testing.assert_close(found.basis, expected.basis)
        moved = int((found.sizes - expected.sizes).abs().sum())
        assert moved <= 2, "ties where the budget runs out are all kept in the rounds: a value may move"


def test_the_budget_is_met_by_all_tokens_however_few_stand_for_them(
    tiny: LightningDataModule, make_trainer: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = searched(tiny, make_trainer, FM, "auto").result
    monkeypatch.setattr(token_sample, "_DRAWN", 5)
    callback = searched(tiny, make_trainer, FM, "auto")
    assert callback._sizes is not None
    assert callback._sizes.sample is not None
    assert expected is not None
    assert callback.result is not None
    assert callback.result.parameters == expected.parameters
    assert callback.result_for(0.8).parameters > expected.parameters
