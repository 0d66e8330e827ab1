"""The multi-size table against the full table cut by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, SizeClass

V, D = 30, 6


def full_table(first_order: bool) -> FullEmbedding:
    full = FullEmbedding(V, D, first_order, init_std=1.0)
    if full.linear is not None:
        torch.nn.init.normal_(full.linear)
    return full


def order_of(table: MultiSizeEmbedding) -> Tensor:
    return torch.arange(V) if table.index is None else torch.argsort(table.index)


def cut(full: FullEmbedding, sizes: Tensor, basis: Tensor) -> Tensor:
    """The plain reference: rotate, zero what a token does not own, rotate back."""
    rows = full.weight.detach() @ basis
    for token, size in enumerate(sizes.tolist()):
        rows[token, size:] = 0
    return rows @ basis.T


@pytest.mark.parametrize("first_order", [True, False])
def test_all_tokens_at_full_size_give_the_full_table(first_order: bool) -> None:
    full = full_table(first_order)
    linear = torch.ones(V, dtype=torch.bool) if first_order else None
    table = MultiSizeEmbedding.from_sizes(torch.full((V,), D), D, linear)
    table.load_full(full, order_of(table), torch.linalg.qr(torch.randn(D, D))[0])
    ids = torch.randint(0, V, (7, 3), dtype=torch.int32)
    assert table.index is None
    assert torch.allclose(table(ids), full(ids), atol=1e-6)
    if first_order:
        assert torch.equal(table.lookup(ids)[1], full.lookup(ids)[1])


@given(seed=st.integers(0, 10_000), first_order=st.booleans(), batch=st.integers(0, 5), fields=st.integers(1, 4))
def test_warm_rows_equal_the_projected_full_table(seed: int, first_order: bool, batch: int, fields: int) -> None:
    torch.manual_seed(seed)
    full = full_table(first_order)
    sizes = torch.randint(0, D + 1, (V,))
    linear = torch.rand(V) < 0.5 if first_order else None
    basis = torch.linalg.qr(torch.randn(D, D))[0]
    table = MultiSizeEmbedding.from_sizes(sizes, D, linear)
    table.load_full(full, order_of(table), basis)
    ids = torch.randint(0, V, (batch, fields), dtype=torch.int32)
    embeddings, first = table.lookup(ids)
    assert embeddings.shape == (batch, fields, D)
    assert torch.allclose(embeddings, cut(full, sizes, basis)[ids.long()], atol=1e-5)
    if linear is None:
        assert first is None
    else:
        assert torch.allclose(first, (full.linear[:, 0] * linear)[ids.long()])


@given(seed=st.integers(0, 10_000), first_order=st.booleans(), batch=st.integers(0, 5), sparse=st.booleans())
def test_a_projection_a_field_is_that_of_the_fields_tables_apart(
    seed: int, first_order: bool, batch: int, sparse: bool
) -> None:
    """Outputs and gradients of a table with three projections are those of three tables with one each."""
    torch.manual_seed(seed)
    full, field_tokens = full_table(first_order), [4, 1, V - 5]
    sizes = torch.randint(0, D + 1, (V,))
    linear = torch.rand(V) < 0.5 if first_order else None
    bases = torch.linalg.qr(torch.randn(3, D, D)).Q
    table = MultiSizeEmbedding.from_sizes(sizes, D, linear, field_projections=3)
    table.load_full(full, order_of(table), bases, field_tokens)
    table.sparse = sparse
    assert table.num_parameters == int(sizes.sum()) + (0 if linear is None else int(linear.sum())) + 3 * D * D
    starts = torch.tensor([0, *field_tokens]).cumsum(0)[:-1]
    ids = torch.stack([torch.randint(0, n, (batch,)) for n in field_tokens], 1) + starts
    weights = torch.randn(batch, 3, D)
    embeddings, first = table.lookup(ids)
    assert embeddings.shape == (batch, 3, D)
    ((embeddings * weights).sum() + (0 if first is None else first.sin().sum())).backward()
    for field, tokens in enumerate(field_tokens):
        own = slice(int(starts[field]), int(starts[field]) + tokens)
        part = FullEmbedding(tokens, D, first_order)
        part.weight.data.copy_(full.weight[own])
        if part.linear is not None:
            part.linear.data.copy_(full.linear[own])
        other = MultiSizeEmbedding.from_sizes(sizes[own], D, None if linear is None else linear[own])
        order = torch.arange(tokens) if other.index is None else torch.argsort(other.index)
        other.load_full(part, order, bases[field])
        expected, expected_first = other.lookup(ids[:, field : field + 1] - own.start)
        torch.testing.assert_close(embeddings[:, field], expected[:, 0])
        if first is not None:
            torch.testing.assert_close(first[:, field], expected_first[:, 0])
        loss = (expected[:, 0] * weights[:, field]).sum()
        (loss + (0 if expected_first is None else expected_first.sin().sum())).backward()
        torch.testing.assert_close(table.projection.grad[field], other.projection.grad)
        assert values_of(table, own, table.values.grad) == pytest.approx(
            values_of(other, slice(0, tokens), other.values.grad), abs=1e-5
        )


def values_of(table: MultiSizeEmbedding, own: slice, values: Tensor) -> list[float]:
    """Returns what belongs to a range of tokens, token by token, of values laid out as the table's."""
    found = []
    positions = (torch.arange(table.num_tokens) if table.index is None else table.index)[own].tolist()
    tables, ends = table.tables(values.to_dense()), table.ends.tolist()
    for position in positions:
        number = next(n for n, end in enumerate(ends) if position < end)
        found += tables[number][position - (ends[number - 1] if number else 0)].tolist()
    return found


def test_gradient_equals_that_of_the_full_table_cut() -> None:
    full = full_table(first_order=True)
    sizes, linear = torch.randint(0, D + 1, (V,)), torch.rand(V) < 0.5
    order = torch.argsort(sizes * 2 + linear, descending=True, stable=True)
    table = MultiSizeEmbedding.from_sizes(sizes[order], D, linear[order])
    assert table.index is None
    table.load_full(full, order, None)
    ids = torch.randint(0, V, (50, 3))
    weights = torch.randn(50, 3, D)
    ((table(ids) * weights).sum() + table.lookup(ids)[1].sum()).backward()
    full.zero_grad()
    ((full(order[ids]) * weights).sum() + full.lookup(order[ids])[1].sum()).backward()
    position = 0
    for c, grad in zip(table.classes, table.tables(table.values.grad), strict=True):
        tokens = order[position : position + c.count]
        position += c.count
        assert torch.allclose(grad[:, int(c.linear) :], full.weight.grad[tokens, : c.size], atol=1e-5)
        if c.linear:
            assert torch.allclose(grad[:, 0], full.linear.grad[tokens, 0])


def test_rows_start_as_they_were_read_where_a_search_pruned_before() -> None:
    full = full_table(first_order=True)
    full.rotate_(torch.linalg.qr(torch.randn(D, D)).Q)
    full.prune_(torch.rand(V, D) < 0.5, torch.rand(V) < 0.5)
    table = MultiSizeEmbedding.from_sizes(torch.full((V,), D), D, torch.ones(V, dtype=torch.bool))
    table.load_full(full, torch.arange(V), None)
    for found, expected in zip(table.lookup(torch.arange(V)[None]), full.lookup(torch.arange(V)[None]), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def sizes_of(table: MultiSizeEmbedding) -> Tensor:
    """Each token's size, in the numbering of the ids."""
    sizes = torch.tensor([c.size for c in table.classes for _ in range(c.count)])
    return sizes if table.index is None else sizes[table.index.long()]


def test_owns_the_sizes_and_the_projection_and_nothing_else() -> None:
    sizes, linear = torch.randint(0, D + 1, (V,)), torch.rand(V) < 0.5
    table = MultiSizeEmbedding.from_sizes(sizes, D, linear)
    expected = int(sizes.sum() + linear.sum()) + D * D
    assert table.num_parameters == expected
    assert sum(p.numel() for p in table.parameters()) == expected
    assert table.index_bytes == 4 * V
    assert torch.equal(sizes_of(table), sizes)


def test_tokens_numbered_by_size_need_no_index() -> None:
    sizes = torch.tensor([6, 6, 3, 3, 0])
    table = MultiSizeEmbedding.from_sizes(sizes, D)
    assert table.index is None
    assert table.index_bytes == 0
    assert table.classes == [SizeClass(6, False, 2), SizeClass(3, False, 2), SizeClass(0, False, 1)]
    assert torch.equal(sizes_of(table), sizes)


def test_tokens_of_size_zero_read_as_zeros_and_train_nothing() -> None:
    table = MultiSizeEmbedding.from_sizes(torch.zeros(4, dtype=torch.long), D, torch.zeros(4, dtype=torch.bool))
    embeddings, linear = table.lookup(torch.tensor([[0, 3]]))
    assert torch.equal(embeddings, torch.zeros(1, 2, D))
    assert torch.equal(linear, torch.zeros(1, 2))
    embeddings.sum().backward()
    assert torch.equal(table.projection.grad, torch.zeros(D, D))


def test_state_dict_round_trip() -> None:
    sizes = torch.randint(0, D + 1, (V,))
    table = MultiSizeEmbedding.from_sizes(sizes, D)
    other = MultiSizeEmbedding(table.classes, D, index=torch.zeros(V, dtype=torch.int32))
    other.load_state_dict(table.state_dict())
    ids = torch.arange(V)[None]
    assert torch.equal(table(ids), other(ids))


def test_a_size_beyond_the_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0 .* 6"):
        MultiSizeEmbedding([SizeClass(7, False, 1)], D)
    with pytest.raises(ValueError, match="first-order"):
        MultiSizeEmbedding([SizeClass(3, True, 1)], D, first_order=False)


def test_a_token_that_the_table_has_not_is_refused() -> None:
    table = MultiSizeEmbedding.from_sizes(torch.tensor([3, 1, 1, 0]), embedding_dim=4)
    for ids in ([[0, 4]], [[10**6, 4]]):
        with pytest.raises(IndexError, match="is out of range: the table has 4"):
            table(torch.tensor(ids))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 2), (1, 4)])
def test_with_a_projection_a_field_ids_have_a_column_a_field(shape: tuple[int, ...]) -> None:
    table = MultiSizeEmbedding.from_sizes(torch.tensor([2, 2, 1, 1]), 4, field_projections=3)
    with pytest.raises(ValueError, match=r"must be \(B, 3\), a column for each field"):
        table.lookup(torch.arange(4).view(shape))
