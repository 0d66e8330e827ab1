"""The sizes of a field's tokens and how large their values are, against what was planted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.search.spectrum import Spectrum, telling

SHARES = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1])


def planted(tokens: int, rows: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns sizes ``(n,)``, true values ``(n, 4)`` of variance 1 within them, and targets with noise 1/rows."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.multinomial(SHARES, tokens, replacement=True, generator=generator)
    values = torch.randn(tokens, 4, dtype=torch.float64, generator=generator) * (torch.arange(4) < sizes.unsqueeze(1))
    noise = torch.randn(tokens, 4, dtype=torch.float64, generator=generator) / rows**0.5
    return sizes, values, values + noise


def fitted(targets: Tensor, rows: float, told: Tensor | None = None) -> Spectrum:
    told = targets if told is None else told
    seen = torch.full((1, targets.shape[1]), rows, dtype=torch.float64)
    sums, number = targets.square().sum(0, keepdim=True), torch.tensor([len(targets)])
    return Spectrum.of_targets(sums, number, seen, False, lambda *_: (told, seen.expand(len(told), -1)))


def test_sizes_are_found_and_values_beyond_them_expected_to_be_nothing() -> None:
    sizes, values, targets = planted(20_000, rows=50)
    found = fitted(targets, 50)
    torch.testing.assert_close(found.sizes, SHARES.double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found.wide, torch.ones(4).double(), atol=0.1, rtol=0)
    assert (found.narrow < 0.01).all()
    expected = found.squares(targets, torch.full_like(targets, 50))
    errors = (expected - values.square()).square().mean(0)
    # One variance for all tokens makes a value of every target.
    alone = found.variance / (found.variance + 1 / 50)
    usual = (alone * targets).square() + found.variance * (1 - alone)
    assert (errors < (usual - values.square()).square().mean(0)).all()
    beyond = torch.arange(4) >= sizes.unsqueeze(1)
    assert expected[beyond].mean() < 0.25 * usual[beyond].mean()
    torch.testing.assert_close(expected.mean(0), values.square().mean(0), atol=0.03, rtol=0)


def test_tokens_with_little_to_tell_are_expected_to_be_as_the_others() -> None:
    _, _, targets = planted(20_000, rows=50)
    found = fitted(targets, 50)
    seen = torch.full((1, 4), 1e-6, dtype=torch.float64)
    torch.testing.assert_close(found.squares(torch.zeros(1, 4).double(), seen)[0], found.variance, rtol=1e-4, atol=0)
    assert (found.squares(torch.ones(1, 4).double(), torch.zeros(1, 4)) == 0).all(), "no row tells of a value at all"


def test_where_no_value_can_be_told_from_noise_all_tokens_have_all_values() -> None:
    _, _, targets = planted(2_000, rows=50)
    found = fitted(targets, 50, told=targets[:0])
    assert found.sizes[-1] == 1
    trust = found.variance / (found.variance + 1 / 50)
    expected = (trust * targets).square() + found.variance * (1 - trust)
    torch.testing.assert_close(found.squares(targets, torch.full_like(targets, 50)), expected, rtol=1e-6, atol=0)


def test_only_tokens_that_tell_something_are_asked() -> None:
    variance, share = torch.tensor([1.0, 0.01]).double(), torch.ones(2).double()
    seen = torch.tensor([[1.0, 1.0], [2.1, 2.1], [1.0, 300.0], [0.0, 9.0]]).double()
    told = telling(seen, variance, share).nonzero().squeeze(1)
    assert told.tolist() == [1, 2], "twice the noise in one value, and something of all"


@given(st.integers(0, 10_000), st.sampled_from([0.01, 1.0, 30.0, 1e9]), st.integers(1, 40))
def test_whatever_is_found_is_finite_and_adds_up(seed: int, rows: float, tokens: int) -> None:
    _, _, targets = planted(tokens, rows, seed)
    found = fitted(targets, rows)
    assert float(found.sizes.sum()) == pytest.approx(1, abs=1e-6)
    has = found.sizes.flip(0).cumsum(0).flip(0)[1:]
    assert (found.narrow <= found.wide + 1e-9).all()
    mean = has * found.wide + (1 - has) * found.narrow
    torch.testing.assert_close(mean, found.variance.clamp(min=1e-9), rtol=1e-3, atol=2e-9)
    expected = found.squares(targets, torch.full_like(targets, rows))
    assert expected.isfinite().all()
    assert (expected >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_where_all_tokens_have_all_values_rounding_does_no_harm(seed: int) -> None:
    targets = 30 * torch.randn(300, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = fitted(targets, 1e9)
    assert found.sizes[-1] > 0.8
    assert (found.narrow >= 0).all()
    torch.testing.assert_close(
        found.squares(targets, torch.full_like(targets, 1e9)), targets.square(), rtol=1e-3, atol=1
    )
