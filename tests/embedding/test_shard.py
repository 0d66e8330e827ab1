"""Which rows a process holds, how they lie in the whole, and that they start as one process draws them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, RowLayout, Shard

TABLES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=6).map(tuple)


def layout_of(tables: tuple[tuple[int, int], ...]) -> RowLayout:
    return RowLayout((sum(count * width for count, width in tables),), tables)


def test_tokens_are_dealt_out_one_by_one() -> None:
    shards = [Shard(rank, 3) for rank in range(3)]
    assert [shard.cut(torch.arange(8)).tolist() for shard in shards] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    # Tokens 0, 1 and 2, 3, 4 and none and 5, 6, 7 are groups.
    assert [shard.counts([2, 3, 0, 3]) for shard in shards] == [[1, 1, 0, 1], [1, 1, 0, 1], [0, 1, 0, 1]]
    with pytest.raises(ValueError, match="rank 3 is not one of 3"):
        Shard(3, 3)


@given(TABLES, st.integers(1, 5))
def test_every_value_is_held_once(tables: tuple[tuple[int, int], ...], processes: int) -> None:
    layout = layout_of(tables)
    whole = torch.arange(layout.shape[0])
    held = [layout.cut(whole, Shard(rank, processes)) for rank in range(processes)]
    assert [tuple(each.shape) for each in held] == [
        layout.held_shape(Shard(rank, processes)) for rank in range(processes)
    ]
    assert torch.equal(torch.cat(held).sort().values, whole)
    # By hand: the values of a process's tokens, in the order of the tokens.
    owners = [token % processes for token in range(sum(count for count, _ in tables))]
    widths = [width for count, width in tables for _ in range(count)]
    values = whole.split(widths) if widths else ()
    for rank, each in enumerate(held):
        own = [value for owner, value in zip(owners, values, strict=True) if owner == rank]
        assert torch.equal(each, torch.cat([whole[:0], *own]))


@given(st.lists(st.integers(0, 30), max_size=7), st.integers(1, 6))
def test_sizes_that_fall_are_split_evenly_in_values(counts: list[int], processes: int) -> None:
    tables = tuple((count, size) for size, count in zip(range(len(counts), 0, -1), counts, strict=True))
    layout = layout_of(tables)
    held = [layout.held_shape(Shard(rank, processes))[0] for rank in range(processes)]
    assert max(held) - min(held) <= len(counts)


@settings(max_examples=25, deadline=None)
@given(
    TABLES,
    st.integers(1, 4),
    st.integers(0, 99),
    st.sampled_from([16, 48, 1 << 20]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_numbers_are_those_that_one_process_draws(
    tables: tuple[tuple[int, int], ...], processes: int, seed: int, together: int, dtype: torch.dtype
) -> None:
    layout = layout_of(tables)
    torch.manual_seed(seed)
    # In 16 bits those of 32, rounded.
    whole = torch.empty(layout.shape).normal_(std=0.3).to(dtype)
    after = torch.rand(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pme_lightning.embedding.shard._DRAWN", together)
        for shard in (None, *(Shard(rank, processes) for rank in range(processes))):
            expected = whole if shard is None else layout.cut(whole, shard)
            held = torch.full_like(expected, torch.nan)
            torch.manual_seed(seed)
            layout.draw_normal(held, shard, 0.3)
            assert torch.equal(held, expected)
            assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("processes", [2, 3])
def test_tables_start_as_those_of_one_process_and_take_whole_states(processes: int) -> None:
    sizes, linear = torch.tensor([5, 5, 3, 3, 3, 1, 0, 0, 0]), torch.arange(9) == 3

    def made(kind: str, shard: Shard | None) -> FullEmbedding | MultiSizeEmbedding:
        if kind == "full":
            return FullEmbedding(9, 5, True, 0.5, shard)
        order = (sizes * 2 + linear).argsort(descending=True, stable=True)
        return MultiSizeEmbedding.from_sizes(sizes[order], 5, linear[order], 0.5, shard)

    for kind in ("full", "multi"):
        torch.manual_seed(0)
        whole = made(kind, None)
        held = 0
        for rank in range(processes):
            shard = Shard(rank, processes)
            torch.manual_seed(0)
            own = made(kind, shard)
            assert own.num_parameters == whole.num_parameters
            for name, layout in whole.layouts.items():
                assert torch.equal(getattr(own, name), layout.cut(getattr(whole, name), shard))
                held += getattr(own, name).numel()
                getattr(own, name).data.zero_()
            own.load_state_dict(whole.state_dict())
            for name, layout in whole.layouts.items():
                assert torch.equal(getattr(own, name), layout.cut(getattr(whole, name), shard))
            own.load_state_dict(own.state_dict())  # and its own
        assert held == sum(getattr(whole, name).numel() for name in whole.layouts)


def test_a_table_with_an_index_is_not_split() -> None:
    with pytest.raises(ValueError, match="number ids by size"):
        MultiSizeEmbedding.from_sizes(torch.tensor([0, 2]), 2, shard=Shard(0, 2))
