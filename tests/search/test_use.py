"""The use of kept values, against plain numbers and a planted loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.search import RowInformation
from pme_lightning.search.use import use_sums

DIM = 3


def uses_of(values: Tensor, kept: Tensor, gradients: Tensor) -> Tensor:
    """What ``RowInformation.use`` is to be, value by value in plain numbers."""
    n, fields, dim = values.shape
    found = torch.full((fields, dim), torch.nan, dtype=torch.float64)
    for f in range(fields):
        for k in range(dim):
            w, g, m = (each[:, f, k].tolist() for each in (values, gradients, kept))
            told, mean = sum(each**2 for each in g) / n, sum(w) / n
            own = [(w[i] - mean, g[i]) for i in range(n) if m[i]]
            expected = sum(told * each**2 / 2 for each, _ in own)
            if expected > 1e-5 * sum(told * w[i] ** 2 / 2 for i in range(n) if m[i]):
                share = sum(-slope * each + told * each**2 / 2 for each, slope in own) / expected
                noise = sum((slope * each) ** 2 for each, slope in own) / expected**2
                found[f, k] = min(1.0, max(0.02, (share + noise) / (1 + noise)))
    return found


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 9), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_the_use_of_kept_values_is_what_leaving_them_out_costs(seed: int, rows: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, gradients = (torch.randn(rows, 2, DIM, generator=generator) for _ in range(2))
    values, kept = values * scale + 0.5, torch.rand(rows, 2, DIM, generator=generator) < 0.6
    by_field, sums = gradients.double().transpose(0, 1), use_sums(values, kept, gradients)
    found = RowInformation.of_sums(torch.tensor([float(rows)]).double(), by_field.mT @ by_field, uses=sums).use
    assert found is not None
    torch.testing.assert_close(found, uses_of(values, kept, gradients), rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize(("best", "use"), [(1.0, 1.0), (2.0, 1.0), (0.75, 0.5), (0.0, 0.02)])
def test_values_that_the_pruned_model_wants_smaller_are_of_less_use(best: float, use: float) -> None:
    # A loss of h (w - best w)² / 2 in each row, beside noise of the gradients as large as h: what is left of the use is
    # 1 - 2 (1 - best), and nothing is less than none.
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(200_000, 1, 1, generator=generator) * 0.1
    gradients = 0.5 * (1 - best) * values + 0.5**0.5 * torch.randn(values.shape, generator=generator)
    sums = use_sums(values, torch.ones(values.shape, dtype=torch.bool), gradients)
    rows = torch.tensor([float(len(values))]).double()
    found = RowInformation.of_sums(rows, gradients.double().square().sum().view(1, 1, 1), uses=sums)
    assert found.use is not None
    assert float(found.use) == pytest.approx(use, abs=0.1)
