"""What rows tell, made of sums by hand, and of several measurements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pme_lightning.search import RowInformation


def test_information_of_rows_by_hand() -> None:
    def of(products: list[list[float]], *linear: Tensor) -> RowInformation:
        return RowInformation.of_sums(torch.tensor([2.0]).double(), torch.tensor([products]).double(), *linear)

    of_linear, both = torch.tensor([2.0]).double(), torch.tensor([[4.0, 3.0]]).double()
    found = of([[8.0, 0.0], [0.0, 18.0]], of_linear, both)
    assert found.table.tolist() == [[pytest.approx(4.0), pytest.approx(9.0)]]
    assert found.linear.tolist() == [1.0]  # type: ignore[union-attr]
    assert found.shared.tolist() == [[pytest.approx(1.0), pytest.approx(0.25)]]  # type: ignore[union-attr]
    # Half of the second value's gradient is that of the first: (18 - 8) / 2 is left, and (3 - 4)² / (2 · 10) of that of
    # the first-order weight.
    alike = of([[8.0, 8.0], [8.0, 18.0]], of_linear, both)
    assert alike.table.tolist() == [[pytest.approx(4.0), pytest.approx(5.0, rel=1e-4)]]
    assert alike.shared.tolist() == [[pytest.approx(1.0), pytest.approx(0.05, rel=1e-3)]]  # type: ignore[union-attr]
    found = RowInformation(torch.tensor([[4.0, 9.0]]), torch.tensor([1.0]), torch.tensor([[1.0, 0.25]]))
    other = RowInformation(torch.tensor([[1.0, 4.0]]), torch.tensor([9.0]), torch.tensor([[0.5, 0.0]]))
    between = found.halfway(other)
    assert between.table.tolist() == [[2.0, 6.0]]
    assert between.linear.tolist() == [3.0]  # type: ignore[union-attr]
    assert between.shared.tolist() == [[0.5, 0.0]]  # type: ignore[union-attr]
    rounded = of([[8.0, 0.0], [0.0, 1e-12]])
    assert rounded.table.tolist() == [[pytest.approx(4.0), 0.0]], "rounding tells nothing"
    assert RowInformation.of_sums(torch.zeros(1).double(), torch.zeros(1, 2, 2).double()).table.tolist() == [[0.0, 0.0]]


def test_use_counts_and_lasts_until_it_is_known_again() -> None:
    told = torch.tensor([[4.0, 9.0]]).double()
    start, nan = RowInformation(told), torch.nan
    once = start.halfway(RowInformation(told, use=torch.tensor([[0.25, nan]]).double()))
    assert once.table.tolist() == [[2.0, 9.0]]
    assert once.use is not None
    assert once.use.tolist() == [[0.25, 1.0]]
    twice = once.halfway(RowInformation(told, use=torch.tensor([[nan, 1.0]]).double()))
    assert twice.table.tolist() == [[pytest.approx((2 * 4 * 0.25) ** 0.5), 9.0]]
    assert twice.use is not None
    assert twice.use.tolist() == [[0.25, 1.0]]
