"""Weight decay by field and axis, value by value against plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pme_lightning.embedding import FieldDecays, MultiSizeEmbedding, Shard
from pme_lightning.optim import LazyAdagrad, RowBlock
from pme_lightning.search import SearchResult

D, PRIOR = 3, 1 / 16


def found(fields: list[int], seed: int) -> tuple[SearchResult, list[int]]:
    """Returns sizes of the tokens of some fields, and the field of each token in the numbering by size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, D + 1, (sum(fields),), generator=generator)
    linear = torch.rand(sum(fields), generator=generator) < 0.5
    spectrum = torch.rand(len(fields), D, generator=generator) ** 4
    spectrum[0, 0] = 0  # nothing is expected there
    result = SearchResult(sizes, linear, D, torch.eye(D), "9", "mine", spectrum)
    return result, torch.arange(len(fields)).repeat_interleave(torch.tensor(fields))[result.order()].tolist()


def decays(result: SearchResult, fields: list[int]) -> FieldDecays:
    classes = [(size, count) for size, _, count in result.classes()]
    assert result.spectrum is not None
    return FieldDecays.of_spectrum(result.spectrum, classes, result.order(), fields, PRIOR)


def table(result: SearchResult, fields: list[int], shard: Shard | None = None) -> MultiSizeEmbedding:
    order = result.order()
    assert result.linear is not None
    return MultiSizeEmbedding.from_sizes(
        result.sizes[order],
        D,
        result.linear[order],
        shard=shard,
        along_axes=True,
        field_decays=FieldDecays.of_plain(decays(result, fields).plain()),
    )


def expected(result: SearchResult, field_of: list[int]) -> list[list[float]]:
    """What the decay of each value of each token is multiplied by, in the numbering by size."""
    assert result.spectrum is not None
    assert result.linear is not None
    spectrum, order = result.spectrum.tolist(), result.order().tolist()
    sizes, linear = result.sizes.tolist(), result.linear.tolist()
    rows = []
    for field, token in zip(field_of, order, strict=True):
        width = sizes[token] + linear[token]
        first = [math.sqrt(width / (D + 1))] if linear[token] else []
        squares = spectrum[field][: sizes[token]]
        rows.append(first + [1 / (8 * (1 / 16 + each)) for each in squares])
    return rows


FIELDS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(fields=FIELDS, seed=st.integers(0, 10_000), processes=st.integers(1, 3))
def test_each_value_decays_by_its_field_and_axis(fields: list[int], seed: int, processes: int) -> None:
    result, field_of = found(fields, seed)
    rows = expected(result, field_of)
    for rank in range(processes):
        shard = None if processes == 1 else Shard(rank, processes)
        held = table(result, fields, shard)
        ((_, blocks),) = held.row_blocks().items()
        # A step with a gradient of zero moves nothing, and decays: lr * weight_decay / sqrt(sum) = .01.
        parameter = nn.Parameter(torch.ones(len(held.values)))
        optimizer = LazyAdagrad([parameter], lr=0.1, weight_decay=0.1, initial_accumulator_value=1.0, decay_interval=1)
        optimizer.set_blocks(parameter, blocks)
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        own = [each for row in rows[rank::processes] for each in row]
        assert ((1 - parameter.detach()) / 0.01).tolist() == pytest.approx(own, abs=2e-4)


def test_values_settle_where_rows_and_prior_have_them() -> None:
    # N rows, each with the loss (w - x)^2 / 2 of its own x, and a normal prior of variance s: the mean of two.
    x, s = torch.tensor([1.0, 3.0, 2.0, -1.0]), 0.5
    most_likely = x.sum() / (len(x) + 1 / s)
    factors = FieldDecays.of_spectrum(torch.tensor([[2 * s - 1 / 16]]), [(1, 1)], torch.tensor([0]), [1], PRIOR).factors
    w = nn.Parameter(torch.zeros(()))
    optimizer = LazyAdagrad([w], weight_decay=None)
    optimizer.set_training_rows(len(x))
    strength = optimizer.param_groups[0]["weight_decay"] * factors[0, 0]
    for _ in range(2000):
        w.data -= 0.01 * ((w - x).mean() + strength * w)
    assert float(w.detach()) == pytest.approx(float(most_likely), rel=1e-4)


@given(fields=FIELDS, seed=st.integers(0, 10_000))
def test_tokens_are_counted_by_size_and_field(fields: list[int], seed: int) -> None:
    result, field_of = found(fields, seed)
    made, start = decays(result, fields), 0
    for own, (_, _, count) in zip(made.tokens, result.classes(), strict=True):
        assert own == [field_of[start : start + count].count(field) for field in range(len(fields))]
        start += count


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_decays_of_some_rows_of_a_block(length: int) -> None:
    block = RowBlock(6, torch.ones(2), torch.arange(8.0).view(4, 2), (2, 0, 1, 3))
    rows = [[0.0, 1.0]] * 2 + [[4.0, 5.0]] + [[6.0, 7.0]] * 3
    pieces = [block.decays_of(start, min(start + length, 6)).tolist() for start in range(0, 6, length)]
    assert [row for piece in pieces for row in piece] == rows
    assert RowBlock(6, torch.ones(2), torch.ones(2)).decays_of(1, 3).tolist() == [1, 1]
    with pytest.raises(
        ValueError, match="groups of 5 rows with decays of shape \\(2, 2\\) do not make up a block of 6"
    ):
        RowBlock(6, torch.ones(2), torch.ones(2, 2), (2, 3))


def test_sixteen_bits_decay_alike() -> None:
    result, _ = found([5, 6], 1)
    ((_, blocks),) = table(result, [5, 6]).row_blocks().items()
    ends: list[Tensor] = []
    for dtype in (torch.float32, torch.bfloat16):
        parameter = nn.Parameter(torch.ones(sum(b.numel for b in blocks), dtype=dtype))
        optimizer = LazyAdagrad([parameter], lr=0.1, weight_decay=1.0, initial_accumulator_value=1.0, decay_interval=1)
        optimizer.set_blocks(parameter, blocks)
        parameter.grad = torch.zeros_like(parameter)
        for _ in range(5):
            optimizer.step()
        ends.append(parameter.detach().float())
    torch.testing.assert_close(ends[0], ends[1], rtol=0.03, atol=0.01)
