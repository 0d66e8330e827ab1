"""Products by field: one at a time, and all of them padded to one."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.embedding.projection import FieldGroups, PaddedGroups


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), dim=st.integers(1, 4), seed=st.integers(0, 1000))
def test_both_kinds_of_groups_are_the_plain_products(counts: list[int], dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    fields = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts))]
    rows, others = torch.randn(2, len(fields), dim)
    matrices = torch.randn(len(counts), dim, dim)
    expected = (
        torch.stack([row @ matrices[field] for row, field in zip(rows, fields, strict=True)]) if len(fields) else rows
    )
    sums = torch.stack([rows[fields == f].T @ others[fields == f] for f in range(len(counts))])
    one_by_one = FieldGroups.of_fields(fields, len(counts))
    for groups in (one_by_one, PaddedGroups.of(one_by_one)):
        torch.testing.assert_close(groups.times(rows, matrices), expected)
        torch.testing.assert_close(groups.products(rows, others), sums)
