"""The numbering by size, against sorting in plain Python."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.embedding import SizeClass
from pme_lightning.embedding.size_classes import size_classes, size_order, size_ranks


@given(tokens=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20), first_order=st.booleans())
def test_tokens_are_numbered_by_size_then_first_order_weight_then_id(
    tokens: list[tuple[int, bool]], first_order: bool
) -> None:
    tokens = [(size, linear and first_order) for size, linear in tokens]
    sizes, linear = (torch.tensor([each[k] for each in tokens]) for k in range(2))
    ranks = size_ranks(sizes, linear if first_order else None)
    expected = sorted(range(len(tokens)), key=lambda token: (*(-each for each in tokens[token]), token))
    assert size_order(ranks).tolist() == expected
    kinds = sorted(set(tokens), reverse=True)
    assert size_classes(ranks) == [SizeClass(*kind, tokens.count(kind)) for kind in kinds]
