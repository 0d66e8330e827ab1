"""The full-size table: lookup, rotation and pruning against plain indexing."""

from __future__ import annotations

import pytest
import torch

from pme_lightning.embedding import FullEmbedding
from pme_lightning.embedding.row_lookup import _rows_by_wide_numbers


def table(first_order: bool = True) -> FullEmbedding:
    full = FullEmbedding(10, 4, first_order, init_std=1.0)
    if full.linear is not None:
        torch.nn.init.normal_(full.linear)
    return full


def orthogonal(dim: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(dim, dim))[0]


def test_lookup_reads_rows() -> None:
    full = table()
    ids = torch.tensor([[1, 9], [0, 1]], dtype=torch.int32)
    embeddings, linear = full.lookup(ids)
    assert torch.equal(embeddings[0, 1], full.weight[9])
    assert linear is not None
    assert full.linear is not None
    assert torch.equal(linear[1], full.linear[[0, 1], 0])
    assert torch.equal(full(ids), embeddings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 4, 16])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("first", [0, 1])
def test_rows_are_read_as_wide_numbers(dtype: torch.dtype, width: int, rows: int, first: int) -> None:
    # As on a GPU; columns behind a first-order weight begin within a wide number.
    whole = torch.randn(rows, first + width).to(dtype)[:, first:]
    ids = torch.randint(0, rows, (6, 2))
    assert torch.equal(_rows_by_wide_numbers(ids, whole), whole[ids])


def test_counts_every_per_token_parameter() -> None:
    assert table(first_order=True).num_parameters == 10 * 5
    assert table(first_order=False).num_parameters == 10 * 4
    assert sum(p.numel() for p in table().parameters()) == 50


def test_without_first_order_there_is_no_linear() -> None:
    full = table(first_order=False)
    assert full.lookup(torch.zeros(1, 1, dtype=torch.int32))[1] is None


def test_rotation_leaves_the_output_as_it_is() -> None:
    full = table()
    ids = torch.arange(10)[None]
    before = full(ids)
    rows = full.weight.clone()
    first, second = orthogonal(4), orthogonal(4)
    full.rotate_(first)
    assert torch.allclose(full.weight, rows @ first, atol=1e-6)
    full.rotate_(second)
    assert torch.allclose(full(ids), before, atol=1e-5)


def test_pruned_values_read_as_zero_and_get_no_gradient() -> None:
    full = table()
    kept = torch.rand(10, 4) < 0.5
    kept_linear = torch.arange(10) % 2 == 0
    expected = full.weight.detach() * kept
    full.prune_(kept, kept_linear)
    embeddings, linear = full.lookup(torch.arange(10)[None])
    assert linear is not None
    assert full.linear is not None
    assert torch.equal(embeddings[0], expected)
    assert torch.equal(linear[0], full.linear[:, 0] * kept_linear)
    (embeddings.sum() + linear.sum()).backward()
    assert torch.equal(full.weight.grad, kept.float())
    assert torch.equal(full.linear.grad[:, 0], kept_linear.float())


def test_state_of_a_gradual_search_loads_into_a_fresh_table() -> None:
    full, fresh = table(), table()
    full.rotate_(orthogonal(4))
    full.prune_(torch.rand(10, 4) < 0.5, torch.rand(10) < 0.5)
    fresh.load_state_dict(full.state_dict())
    ids = torch.arange(10)[None]
    assert torch.equal(full(ids), fresh(ids))


def test_no_buffer_is_named_as_a_pruning_mask() -> None:
    # Lightning's ModelPruning takes any buffer whose name ends so for one of its own.
    full = table()
    full.prune_(torch.ones(10, 4, dtype=torch.bool), None)
    assert not [name for name, _ in full.named_buffers() if name.endswith("_mask")]
