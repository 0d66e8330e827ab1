"""Which field a token is of, however many tokens fields have."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.embedding.fields import field_ends, field_slices, fields_of, for_each_token


@given(field_tokens=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_fields_lie_side_by_side(field_tokens: list[int]) -> None:
    each = [field for field, count in enumerate(field_tokens) for _ in range(count)]
    tokens = torch.arange(len(each))
    assert fields_of(tokens, field_ends(field_tokens)).tolist() == each
    assert [field for field, own in enumerate(field_slices(field_tokens)) for _ in tokens[own]] == each
    of_fields = torch.arange(2 * len(field_tokens)).view(-1, 2)
    assert for_each_token(of_fields, field_tokens).tolist() == [[2 * field, 2 * field + 1] for field in each]


def test_tokens_may_stand_in_any_shape_and_order() -> None:
    tokens = torch.tensor([[5, 0], [2, 3]])
    assert fields_of(tokens.T, field_ends([3, 3])).tolist() == [[1, 0], [0, 1]]
