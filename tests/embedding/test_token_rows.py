"""Rows of several widths in one flat tensor: both ways to read them, and a loop over single values."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.embedding import MultiSizeEmbedding, SizeClass
from pme_lightning.embedding.token_rows import FlatRows, SlicedRows

D = 5


@given(
    sizes=st.lists(st.tuples(st.integers(0, D), st.booleans(), st.integers(0, 4)), min_size=1, max_size=8),
    first_order=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_both_ways_are_the_plain_one(sizes: list[tuple[int, bool, int]], first_order: bool, seed: int) -> None:
    classes = [SizeClass(size, linear and first_order, n) for size, linear, n in sorted(sizes, reverse=True)]
    table = MultiSizeEmbedding(classes, D, first_order)
    generator = torch.Generator().manual_seed(seed)
    tokens = (torch.rand(table.num_tokens, generator=generator) < 0.5).nonzero().squeeze(1).int()
    values = torch.randn(len(table.values), generator=generator)
    columns = D + first_order
    # Token by token, value by value.
    padded, places, place, token, chosen = torch.zeros(len(tokens), columns), [], 0, 0, tokens.tolist()
    for c in classes:
        for _ in range(c.count):
            for value in range(c.width):
                if token in chosen:
                    column = value + int(first_order and not c.linear)
                    padded[chosen.index(token), column] = values[place]
                    places.append(place)
                place += 1
            token += 1
    gradient = torch.randn(len(tokens), columns, generator=generator)
    for rows in (SlicedRows.of(table, tokens), FlatRows.of(table, tokens)):
        assert torch.equal(rows.padded(values), padded)
        assert rows.places().tolist() == places
        assert torch.equal(rows.flat(rows.padded(values)), values[places])
        spread = torch.zeros_like(values)
        spread[places] = rows.flat(gradient)
        assert torch.equal(rows.spread(gradient, values), spread)
