"""Steps and decays of rows of several widths in one parameter, against a loop over single values."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pme_lightning.backbones import DCN, FM, DeepFM
from pme_lightning.callbacks import TransferCallback
from pme_lightning.embedding import MultiSizeEmbedding
from pme_lightning.module import CTRModule
from pme_lightning.optim import JoinedOptimizer, LazyAdagrad, RowBlock
from pme_lightning.optim.row_blocks import StepsByPlace, tables_of
from pme_lightning.search import SearchResult

OPTIONS: dict[str, Any] = {"lr": 0.3, "weight_decay": 0.1, "initial_accumulator_value": 0.04, "decay_interval": 2}


def blocks_of(shapes: list[tuple[int, int]], generator: torch.Generator) -> list[RowBlock]:
    return [RowBlock(count, *(0.5 + torch.rand(2, width, generator=generator))) for count, width in shapes if count]


def expected(start: Tensor, grads: list[Tensor], blocks: list[RowBlock]) -> list[float]:
    """Value by value, in plain numbers."""
    steps = [s for b in blocks for _ in range(b.count) for s in b.steps.tolist()]
    decays = [d for b in blocks for _ in range(b.count) for d in b.decays.tolist()]
    values, sums = start.tolist(), [OPTIONS["initial_accumulator_value"]] * len(start)
    for number, grad in enumerate(grads, 1):
        for i, g in enumerate(grad.tolist()):
            sums[i] += g * g
            values[i] -= OPTIONS["lr"] * steps[i] * g / (sums[i] ** 0.5 + 1e-10)
            if number % 2 == 0:
                shrink = 1 - OPTIONS["lr"] * OPTIONS["weight_decay"] * decays[i] / (sums[i] ** 0.5 + 1e-10)
                values[i] *= max(0.0, shrink) ** 2
    return values


def rows_of(generator: torch.Generator, blocks: list[RowBlock]) -> Tensor:
    """Which values a batch has: whole rows, some of them."""
    return torch.cat([(torch.rand(b.count, generator=generator) < 0.6).repeat_interleave(b.width) for b in blocks])


@given(
    shapes=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=5).filter(
        lambda shapes: any(count for count, _ in shapes)
    ),
    seed=st.integers(0, 10_000),
    sparse=st.booleans(),
)
def test_steps_and_decays_are_scaled_block_by_block(shapes: list[tuple[int, int]], seed: int, sparse: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks = blocks_of(shapes, generator)
    parameter = nn.Parameter(torch.randn(sum(b.numel for b in blocks), generator=generator))
    start, grads = parameter.detach().clone(), []
    optimizer = LazyAdagrad([parameter], **OPTIONS)
    optimizer.set_blocks(parameter, blocks)
    for _ in range(4):
        present = rows_of(generator, blocks)
        grads.append(torch.randn(len(start), generator=generator) * present)
        places = present.nonzero()[:, 0]
        parameter.grad = (
            torch.sparse_coo_tensor(places[None], grads[-1][places], start.shape) if sparse else grads[-1].clone()
        )
        optimizer.step()
    assert parameter.tolist() == pytest.approx(expected(start, grads, blocks), abs=1e-5)


@pytest.mark.parametrize("told_first", [True, False])
@pytest.mark.parametrize(
    ("fields", "scaled", "power"), [(7, True, 1), (14, True, 0.5), (28, True, 0.25), (28, False, 1)]
)
def test_with_many_fields_blocks_scale_less(fields: int, scaled: bool, power: float, told_first: bool) -> None:
    parameter, steps, decays = nn.Parameter(torch.ones(2)), torch.tensor([4.0, 0.25]), torch.tensor([16.0, 0.5])
    optimizer = LazyAdagrad(
        [parameter],
        lr=0.01,
        weight_decay=0.5,
        initial_accumulator_value=3.0,
        decay_interval=1,
        warmup_steps=0,
        scale_by_fields=scaled,
    )
    told = [lambda: optimizer.set_fields(fields), lambda: optimizer.set_blocks(parameter, [RowBlock(1, steps, decays)])]
    for tell in told if told_first else reversed(told):
        tell()
    parameter.grad = torch.ones(2)
    optimizer.step()
    rate = 0.01 * power**0.5  # and the sum of squares is 4
    expected = [(1 - rate * s**power / 2) * (1 - rate * 0.5 * d**power / 2) for s, d in ((4, 16), (0.25, 0.5))]
    assert parameter.tolist() == pytest.approx(expected, abs=1e-6)


def test_blocks_that_do_not_fill_a_parameter_and_torn_rows_are_refused() -> None:
    parameter = nn.Parameter(torch.zeros(6))
    optimizer = LazyAdagrad([parameter])
    with pytest.raises(ValueError, match=r"blocks of 4 values do not fill a parameter of shape \(6,\)"):
        optimizer.set_blocks(parameter, [RowBlock(2, torch.ones(2), torch.ones(2))])
    optimizer.set_blocks(parameter, [RowBlock(3, torch.ones(2), torch.ones(2))])
    parameter.grad = torch.sparse_coo_tensor([[0, 1, 2]], [1.0, 1.0, 1.0], (6,))
    with pytest.raises(ValueError, match="3 values of rows of 2: a gradient has whole rows"):
        optimizer.step()


def test_a_row_of_few_values_takes_longer_steps_and_is_held_back_less() -> None:
    # D = 4, with first-order weights: 5 values at full size.
    sizes, linear = torch.tensor([4, 1, 0, 0]), torch.tensor([True, False, True, False])
    assert not MultiSizeEmbedding.from_sizes(sizes, 4, linear).row_blocks()
    table = MultiSizeEmbedding.from_sizes(sizes, 4, linear, along_axes=True)
    ((values, blocks),) = table.row_blocks().items()
    assert values is table.values
    root = 5**0.5
    assert [(b.count, b.steps.tolist(), b.decays.tolist()) for b in blocks] == [
        (1, [1.0] * 5, [1.0] * 5),
        (1, pytest.approx([root**0.5]), [1.0]),
        (1, [1.0], pytest.approx([1 / root])),
    ]
    (plain,) = MultiSizeEmbedding.from_sizes(torch.tensor([2]), 8, along_axes=True).row_blocks().values()
    assert plain[0].steps.tolist() == pytest.approx([4**0.25] * 2)


@pytest.mark.parametrize("backbone", [DCN, DeepFM])
def test_the_module_tells_its_optimizer_and_a_full_table_has_nothing_to_tell(backbone: type) -> None:
    model = CTRModule(
        [6, 4], backbone, {"hidden_units": [4]}, 4, optimizer_args={"lr": 0.1}, embedding_optimizer=LazyAdagrad
    )
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, JoinedOptimizer)
    assert not any(optimizer.optimizers[1].blocks_of(p) for p in model.table_parameters)
    sizes = torch.tensor([4, 3, 3, 2, 2, 2, 1, 1, 0, 0])
    linear = sizes > 1 if model.first_order else None
    model.set_embedding(MultiSizeEmbedding.from_sizes(sizes, 4, linear, along_axes=True))
    (parameter,) = model.table_parameters
    for own, told in ((model.configure_optimizers().optimizers[1], True), (LazyAdagrad([parameter]), False)):
        assert bool(own.blocks_of(parameter)) is told
    assert CTRModule(**model.hparams).embedding.along_axes
    model.set_optimizers("torch.optim.Adam", {}, LazyAdagrad, {"scale_by_size": False})
    assert not model.configure_optimizers().optimizers[1].blocks_of(parameter)


def test_a_backbone_without_a_network_has_nothing_to_keep_up_with() -> None:
    sizes = torch.tensor([4, 3, 2, 1, 0])
    table = MultiSizeEmbedding.from_sizes(sizes, 4, sizes > 1, along_axes=True)
    model = CTRModule([5], FM, embedding_dim=4, optimizer=LazyAdagrad)
    model.set_embedding(table)
    assert not model.configure_optimizers().blocks_of(table.values)
    model = CTRModule([5], DeepFM, {"hidden_units": [4]}, 4, optimizer=LazyAdagrad)
    model.set_embedding(table)
    assert model.configure_optimizers().blocks_of(table.values)


def test_a_copy_goes_on_alike_and_the_state_does_not_hold_blocks() -> None:
    parameter = nn.Parameter(torch.ones(4))
    optimizer = LazyAdagrad([parameter], lr=0.1)
    optimizer.set_blocks(parameter, [RowBlock(2, torch.tensor([1.0, 3.0]), torch.ones(2))])
    again = copy.deepcopy(optimizer)
    (copied,) = again.param_groups[0]["params"]
    for each, stepped in ((parameter, optimizer), (copied, again)):
        each.grad = torch.ones(4)
        stepped.step()
        assert each.tolist() == pytest.approx([0.9, 0.7, 0.9, 0.7])
    assert set(optimizer.state_dict()["state"][0]) == {"step", "sum"}


@pytest.mark.parametrize("basis", [None, torch.eye(2), torch.eye(2).expand(2, 2, 2)])
def test_sizes_along_axes_are_scaled_and_others_are_not(basis: Tensor | None) -> None:
    sizes = SearchResult(torch.tensor([2, 0, 1]), None, 2, basis=basis, budget="7", criterion="mine")
    model = CTRModule([2, 1], DCN, embedding_dim=2)
    TransferCallback(sizes).rebuild(model)
    assert isinstance(model.embedding, MultiSizeEmbedding)
    assert bool(model.embedding.row_blocks()) is (basis is not None)


@given(
    shapes=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=5).filter(
        lambda shapes: any(count for count, _ in shapes)
    ),
    seed=st.integers(0, 10_000),
)
def test_steps_by_place_are_those_of_the_blocks(shapes: list[tuple[int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks = blocks_of(shapes, generator)
    places = rows_of(generator, blocks).nonzero().squeeze(1)
    factors = torch.ones(len(places))
    for block, own in tables_of(factors, blocks, places):
        own.mul_(block.steps)
    assert torch.equal(StepsByPlace.of(blocks, places.device).at(places), factors)
