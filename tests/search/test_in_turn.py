"""Values in turn against least squares, and what keeping the first few of them loses against solving for it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.errors import BadInput
from pme_lightning.search.in_turn import InTurn

DIM = 4


def gradients_of(seed: int, rows: int = 50) -> Tensor:
    """Returns gradients ``(2, rows, D)`` of two fields, those of each field in part alike."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(2, rows, DIM, generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(torch.randn(2, 2, DIM, DIM, generator=generator, dtype=torch.float64)).Q
    # Alike, and not so alike that what is left of one beside the others is little more than rounding.
    return own @ turns[0] * torch.tensor([2.0, 1.5, 1.0, 0.5], dtype=torch.float64) @ turns[1]


def information(gradients: Tensor) -> Tensor:
    return gradients.mT @ gradients / gradients.shape[1]


@given(st.integers(0, 10_000))
def test_a_value_tells_what_those_before_it_leave_of_its_gradient(seed: int) -> None:
    gradients = gradients_of(seed)
    found = InTurn.of(information(gradients))
    for field in range(2):
        for k in range(DIM):
            before, own = gradients[field, :, :k], gradients[field, :, k : k + 1]
            left = own - before @ torch.linalg.lstsq(before, own).solution if k else own
            assert float(found.told[field, k]) == pytest.approx(float(left.square().mean()), rel=1e-3)
            at = found.gradients(field, gradients[field])[:, k]
            torch.testing.assert_close(at, left[:, 0], rtol=1e-3, atol=1e-3 * float(own.abs().max()))


@given(st.integers(0, 10_000), st.integers(0, DIM))
def test_what_the_first_values_lose_for_want_of_the_others_adds_up(seed: int, kept: int) -> None:
    told = information(gradients_of(seed))
    best = torch.randn(DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = InTurn.of(told)
    for field in range(2):
        # The best first values, given that the others are 0: those where the loss is flat.
        row, own = torch.zeros(DIM, dtype=torch.float64), told[field]
        row[:kept] = torch.linalg.solve(own[:kept, :kept], own[:kept] @ best)
        loss = float((row - best) @ own @ (row - best))
        worth = found.told[field] * found.values(field, best[None])[0].square()
        assert float(worth[kept:].sum()) == pytest.approx(loss, rel=1e-3, abs=1e-9)
        assert float(worth.sum()) == pytest.approx(float(best @ own @ best), rel=1e-3)


@given(st.integers(0, 10_000), st.integers(1, DIM))
def test_values_beyond_the_last_stay_zero_and_gradients_go_the_other_way(seed: int, size: int) -> None:
    found = InTurn.of(information(gradients_of(seed)))
    generator = torch.Generator().manual_seed(seed)
    rows, slopes = torch.randn(2, 7, DIM, generator=generator, dtype=torch.float64)
    rows[:, size:] = 0
    values = found.values(1, rows)
    assert (values[:, size:] == 0).all()
    # A small step in the values is the same small step in the loss.
    torch.testing.assert_close((values * found.gradients(1, slopes)).sum(1), (rows * slopes).sum(1))


def test_of_values_that_say_the_same_the_first_one_says_it() -> None:
    gradients = gradients_of(0)
    gradients[:, :, 2] = 3 * gradients[:, :, 0]
    found = InTurn.of(information(gradients))
    own = gradients.square().mean(1)
    torch.testing.assert_close(found.told[:, 0], own[:, 0], rtol=1e-4, atol=0)
    assert (found.told[:, 2] < 1e-4 * own[:, 2]).all()
    assert (found.told[:, 3] > 1e-3 * own[:, 3]).all(), "the last one says something of its own"


@pytest.mark.parametrize("silent", [[1], [0, 3], [0, 1, 2, 3]])
def test_a_value_without_gradients_tells_nothing_and_leaves_the_others_alone(silent: list[int]) -> None:
    gradients = gradients_of(1)
    others = [k for k in range(DIM) if k not in silent]
    gradients[:, :, silent] = 0
    found = InTurn.of(information(gradients))
    assert (found.told[:, silent] == 0).all()
    assert found.factor.isfinite().all()
    if others:
        alone = InTurn.of(information(gradients[:, :, others]))
        torch.testing.assert_close(found.told[:, others], alone.told, rtol=1e-4, atol=0)
        assert (found.factor[:, silent][:, :, others].abs() < 1e-12).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_rows_than_values(rows: int) -> None:
    gradients = gradients_of(3, rows).float()
    found = InTurn.of((gradients.mT @ gradients / rows).double())  # rounded, so some eigenvalues are below 0
    own = gradients.double().square().mean(1)
    assert found.told.isfinite().all()
    assert (found.told[:, rows:] < 1e-3 * own[:, rows:]).all(), "the first values fit all there is"
    torch.testing.assert_close(found.told[:, 0], own[:, 0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_gradients_that_are_no_numbers_are_refused(bad: float) -> None:
    gradients = gradients_of(2)
    gradients[1, 3, 0] = bad
    with pytest.raises(BadInput, match="the search diverged; lower the learning rate"):
        InTurn.of(information(gradients))
