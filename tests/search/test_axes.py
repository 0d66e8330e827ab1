"""Principal axes against what makes them principal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pme_lightning.search import principal_axes


def test_axes_are_orthogonal_by_falling_energy_and_repeat() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    frequencies = torch.randint(0, 100, (200,), generator=generator)
    axes = principal_axes(weight, frequencies)
    torch.testing.assert_close(axes.T @ axes, torch.eye(6), rtol=0, atol=1e-6)
    energies = (frequencies.unsqueeze(1) * (weight @ axes) ** 2).sum(0)
    assert bool((energies[:-1] >= energies[1:]).all())
    covariance = (weight @ axes).T @ (frequencies.unsqueeze(1) * (weight @ axes))
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    assert off_diagonal.abs().max() < 1e-4 * energies.max()
    # Signs do not depend on the order of the tokens.
    torch.testing.assert_close(principal_axes(weight.flip(0), frequencies.flip(0)), axes)
    assert bool((axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all())


@pytest.mark.parametrize(
    ("weight", "frequencies"),
    [
        (torch.zeros(5, 3), torch.ones(5)),  # nothing learned
        (torch.randn(5, 3), torch.zeros(5)),  # nothing seen
        (torch.ones(5, 3), torch.ones(5)),  # one direction only
        (torch.full((5, 3), 1e-25), torch.ones(5)),  # squares vanish in float32
    ],
)
def test_degenerate_tables_still_have_axes(weight: Tensor, frequencies: Tensor) -> None:
    axes = principal_axes(weight, frequencies)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3), rtol=0, atol=1e-6)


def test_axes_that_no_token_uses_are_those_of_the_other_energy() -> None:
    """Two tokens span two of four dimensions; rounding must not decide on the other two."""
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    other = torch.eye(4, dtype=torch.float64)
    other[2:, 2:] = turn @ torch.diag(torch.tensor([5.0, 1.0], dtype=torch.float64)) @ turn.T
    for noise in (0.0, 1e-6, -1e-6):
        weight = torch.tensor([[3.0, 0.0, 0.0, noise], [0.0, 2.0, noise, 0.0]])
        axes = principal_axes(weight, torch.ones(2), where_empty=other)
        torch.testing.assert_close(axes[:2, :2], torch.eye(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(axes[2:, 2:], turn.float(), atol=1e-4, rtol=0)
    assert torch.equal(principal_axes(torch.zeros(2, 4), torch.ones(2), where_empty=other), torch.eye(4))
