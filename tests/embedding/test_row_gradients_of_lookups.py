"""Lookups and their gradients against autograd's own, dense and sparse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding
from pme_lightning.embedding.distinct import DistinctTokens

V, D = 23, 5


def drawn(seed: int, batch: int, fields: int, kind: torch.dtype) -> Tensor:
    return torch.randint(0, V, (batch, fields), dtype=kind, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10_000), n=st.integers(0, 60), width=st.integers(1, 4))
def test_distinct_tokens_are_those_of_unique_and_sums_those_of_index_add(seed: int, n: int, width: int) -> None:
    ids = drawn(seed, n, 1, torch.int32)[:, 0]
    values = torch.randn(n, width, dtype=torch.float64)
    tokens, inverse = torch.unique(ids, return_inverse=True)
    distinct = DistinctTokens.of(ids)
    assert torch.equal(distinct.tokens, tokens)
    assert torch.equal(distinct.places.long(), inverse)
    expected = torch.zeros(len(tokens), width, dtype=torch.float64).index_add_(0, inverse, values)
    assert torch.allclose(distinct.sum(values), expected)


def test_narrow_values_are_added_up_in_32_bits() -> None:
    # 1024 + 1 is 1024 in bfloat16, however often.
    values = torch.tensor([1024.0] + [1.0] * 8, dtype=torch.bfloat16)[:, None]
    assert DistinctTokens.of(torch.zeros(9, dtype=torch.int32)).sum(values).item() == 1032.0


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@given(seed=st.integers(0, 10_000), batch=st.integers(0, 6), kind=st.sampled_from([torch.int32, torch.int64]))
def test_a_full_table_has_the_gradients_of_autograd(
    sparse: bool, first_order: bool, seed: int, batch: int, kind: torch.dtype
) -> None:
    torch.manual_seed(seed)
    table = FullEmbedding(V, D, first_order, init_std=1.0).double()
    table.sparse = sparse
    ids = drawn(seed, batch, 3, kind)
    plain = table.weight.detach().clone().requires_grad_()
    plain_linear = torch.zeros(V, 1, dtype=torch.float64, requires_grad=True)
    upstream, upstream_linear = torch.randn(batch, 3, D).double(), torch.randn(batch, 3).double()
    embeddings, linear = table.lookup(ids)
    reference = F.embedding(ids, plain)
    assert torch.equal(embeddings, reference)
    loss = (embeddings * upstream).sum() + (0 if linear is None else (linear * upstream_linear).sum())
    loss.backward()
    plain_loss = (reference * upstream).sum() + (F.embedding(ids, plain_linear)[..., 0] * upstream_linear).sum()
    plain_loss.backward()
    grad = table.weight.grad
    assert grad is not None
    assert grad.is_sparse == sparse
    assert torch.allclose(grad.to_dense(), plain.grad)
    assert not sparse or grad._nnz() == len(ids.unique())
    if table.linear is not None:
        assert torch.allclose(table.linear.grad.to_dense(), plain_linear.grad)


@pytest.mark.parametrize("multi_size", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@given(seed=st.integers(0, 10_000), batch=st.integers(0, 6), first_order=st.booleans())
def test_in_16_bits_outputs_are_those_of_the_same_values_in_32_and_gradients_are_rounded(
    multi_size: bool, sparse: bool, seed: int, batch: int, first_order: bool
) -> None:
    torch.manual_seed(seed)
    sizes = torch.randint(0, D + 1, (V,))
    linear = sizes > 1 if first_order else None
    ids = drawn(seed, batch, 3, torch.int32)
    upstream, upstream_linear = torch.randn(batch, 3, D), torch.randn(batch, 3)
    start: dict[str, torch.Tensor] = {}
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        if multi_size:
            table = MultiSizeEmbedding.from_sizes(sizes, D, linear, init_std=1.0, dtype=dtype)
        else:
            table = FullEmbedding(V, D, first_order, init_std=1.0, dtype=dtype)
        table.sparse = sparse
        own = {name: p for name, p in table.named_parameters() if name != "projection"}
        assert {p.dtype for p in own.values()} == {table.dtype} == {dtype}
        for name, p in own.items():
            p.data.copy_(start.setdefault(name, torch.randn(p.shape).bfloat16()))
        embeddings, first = table.lookup(ids)
        ((embeddings * upstream).sum() + (0 if first is None else (first * upstream_linear).sum())).backward()
        found.append((embeddings, first, {name: p.grad.to_dense() for name, p in own.items()}))
    (embeddings, first, grads), (expected, expected_first, expected_grads) = found
    assert embeddings.dtype == torch.float32
    assert torch.equal(embeddings, expected)
    assert first is expected_first is None or torch.equal(first, expected_first)
    for name, grad in grads.items():
        assert torch.equal(grad, expected_grads[name].bfloat16()), name


def test_bytes_of_16_bits_are_half_but_for_what_tokens_share() -> None:
    sizes = torch.tensor([3, 1, 0, 1])
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        assert FullEmbedding(4, D, True, dtype=dtype).num_bytes == 4 * (D + 1) * size
        table = MultiSizeEmbedding.from_sizes(sizes, D, sizes > 0, dtype=dtype)
        assert table.num_bytes == (5 + 3) * size + D * D * 4
        assert table.num_bytes == sum(p.numel() * p.element_size() for p in table.parameters())


def test_a_frozen_table_gets_no_gradient() -> None:
    table = FullEmbedding(V, D, first_order=True)
    table.weight.requires_grad_(False)
    embeddings, linear = table.lookup(drawn(0, 4, 3, torch.int32))
    (embeddings.sum() + linear.sum()).backward()
    assert table.weight.grad is None
    assert table.linear.grad is not None


@given(seed=st.integers(0, 10_000), batch=st.integers(0, 6), first_order=st.booleans(), indexed=st.booleans())
def test_a_multi_size_table_has_one_gradient_dense_or_sparse(
    seed: int, batch: int, first_order: bool, indexed: bool
) -> None:
    torch.manual_seed(seed)
    sizes = torch.randint(0, D + 1, (V,))
    sizes = sizes if indexed else sizes.sort(descending=True).values
    linear = sizes > 1 if first_order else None
    table = MultiSizeEmbedding.from_sizes(sizes, D, linear, init_std=1.0).double()
    torch.nn.init.normal_(table.projection)
    ids = drawn(seed, batch, 3, torch.int32)
    upstream, upstream_linear = torch.randn(batch, 3, D).double(), torch.randn(batch, 3).double()
    found = {}
    for sparse in (False, True):
        table.sparse = sparse
        table.zero_grad()
        embeddings, first = table.lookup(ids)
        ((embeddings * upstream).sum() + (0 if first is None else (first * upstream_linear).sum())).backward()
        assert table.values.grad.is_sparse == sparse
        found[sparse] = table.values.grad.to_dense(), table.projection.grad.clone()
    assert torch.equal(found[False][0], found[True][0])
    assert torch.equal(found[False][1], found[True][1])
    # The plain twin: padded rows, masked to what each token owns, and autograd's own gradient.
    order = torch.arange(V) if table.index is None else table.index.long()
    owned = torch.arange(D) < sizes[:, None]
    rows = torch.zeros(V, D, dtype=torch.float64)
    column = torch.zeros(V, dtype=torch.float64)
    position = 0
    tokens_by_size = torch.argsort(order)
    for c, own in zip(table.classes, table.tables(), strict=True):
        tokens = tokens_by_size[position : position + c.count]
        position += c.count
        rows[tokens, : c.size] = own[:, int(c.linear) :]
        if c.linear:
            column[tokens] = own[:, 0]
    rows.requires_grad_(), column.requires_grad_()
    projection = table.projection.detach().clone().requires_grad_()
    reference = F.embedding(ids.long(), rows * owned) @ projection
    assert torch.allclose(table(ids), reference)
    loss = (reference * upstream).sum()
    if first_order:
        loss = loss + (column[ids.long()] * upstream_linear).sum()
    loss.backward()
    assert torch.allclose(found[False][1], projection.grad)
    position = 0
    for c, own in zip(table.classes, table.tables(found[False][0]), strict=True):
        tokens = tokens_by_size[position : position + c.count]
        position += c.count
        assert torch.allclose(own[:, int(c.linear) :], rows.grad[tokens, : c.size])
        if c.linear:
            assert torch.allclose(own[:, 0], column.grad[tokens])
