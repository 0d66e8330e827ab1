"""Which fields of a row are left: at random over rows, fields and salts, and a matter of the row alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.embedding import FullEmbedding
from pme_lightning.embedding.field_dropout import fields_left


def rows(count: int, fields: int = 6, tokens: int = 50) -> Tensor:
    starts = torch.arange(fields) * tokens
    return torch.randint(0, tokens, (count, fields)) + starts


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_share_of_every_field_is_dropped_whatever_the_others_are(share: float, dtype: torch.dtype) -> None:
    left = fields_left(rows(40_000).to(dtype), share, salt=3).double()
    torch.testing.assert_close(left.mean(0), torch.full((6,), 1 - share).double(), atol=0.01, rtol=0)
    if share:
        assert (left.T.corrcoef() - torch.eye(6)).abs().max() < 0.02, "one field says nothing of another"


def test_another_salt_drops_others() -> None:
    ids = rows(20_000)
    draws = torch.stack([fields_left(ids, 0.5, salt)[:, 0] for salt in (0, 1, 2, 3, 1000)]).double()
    assert (draws.corrcoef() - torch.eye(5)).abs().max() < 0.03


def test_a_token_is_dropped_in_some_rows_and_left_in_others() -> None:
    ids = rows(20_000)
    left = fields_left(ids, 0.3, salt=0)
    shares = torch.stack([left[:, 2][ids[:, 2] == token].double().mean() for token in ids[:, 2].unique()])
    assert 0.55 < shares.min() < shares.max() < 0.85


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(0, 10**9))
def test_it_depends_on_the_row_alone(salt: int, size: int, seed: int) -> None:
    torch.manual_seed(seed)
    ids = rows(20)
    whole = fields_left(ids, 0.4, salt)
    assert torch.equal(torch.cat([fields_left(part, 0.4, salt) for part in ids.split(size)]), whole)
    order = torch.randperm(20)
    assert torch.equal(fields_left(ids[order], 0.4, salt), whole[order])


@pytest.mark.parametrize("first_order", [False, True])
def test_a_dropped_token_reads_as_zero_and_gets_no_gradient_while_training(first_order: bool) -> None:
    table = FullEmbedding(300, 4, first_order=first_order, init_std=1.0)
    ids = rows(5)
    dropped = torch.zeros(5, 6, dtype=torch.bool)
    dropped[1, 2] = dropped[3, 0] = True
    if table.linear is not None:
        torch.nn.init.ones_(table.linear)
    table.fields_left = lambda _: ~dropped
    seen = []
    table.observer = lambda _, *gradients: seen.extend(gradients)
    embeddings, linear = table.lookup(ids)
    assert torch.equal((embeddings == 0).all(-1), dropped)
    (embeddings.sum() + (0 if linear is None else linear.sum())).backward()
    assert torch.equal((seen[0] == 0).all(-1), dropped)
    if linear is not None:
        assert torch.equal(linear == 0, dropped)
        assert torch.equal(seen[1] == 0, dropped)
    table.eval()
    assert (table.lookup(ids)[0] != 0).any(-1).all(), "outside of training nothing is dropped"
