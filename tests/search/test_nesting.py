"""Nested axes: found where they were planted, and not by what a few frequent tokens have to say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.search import nested_axes, principal_axes

D = 6


def planted(tokens: int = 3_000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rows with 0 to 3 values along hidden axes, what their rows tell of them, and those axes.

    Ten tokens are so frequent that they are nearly all of the energy; they have values along all axes.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    sizes = torch.randint(0, 4, (tokens,), generator=generator)
    values = torch.randn(tokens, D, generator=generator) * (torch.arange(D) < sizes.unsqueeze(1))
    values[:10] = torch.randn(10, D, generator=generator)
    rows = torch.full((tokens,), 100.0)
    rows[:10] = 1e6
    noise = torch.randn(tokens, D, generator=generator) / rows.sqrt().unsqueeze(1)
    return (values + noise) @ hidden.T, rows, hidden


def objective(weight: Tensor, precision: Tensor, axes: Tensor) -> float:
    tails = [precision * (weight @ axes[:, d:]).square().sum(1) for d in range(D)]
    return sum(float(torch.log1p(tail.double()).sum()) for tail in tails)


def told_by_first(axes: Tensor, hidden: Tensor) -> list[float]:
    """How much of the first one, two and three hidden axes lies in as many of these."""
    return [float((hidden[:, :k].T @ axes[:, :k]).square().sum()) / k for k in (1, 2, 3)]


def test_planted_axes_are_found_where_principal_ones_are_those_of_a_few_tokens() -> None:
    weight, precision, hidden = planted()
    principal = principal_axes(weight, precision)
    nested = nested_axes(weight, precision, principal)
    assert min(told_by_first(nested, hidden)) > 0.99
    assert max(told_by_first(principal, hidden)) < 0.9
    assert objective(weight, precision, nested) < objective(weight, precision, hidden) * 1.005
    assert (nested.gather(0, nested.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(nested.T @ nested, torch.eye(D), atol=1e-5, rtol=0)


def test_some_tokens_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, precision, hidden = planted(tokens=20_000)
    monkeypatch.setattr("pme_lightning.search.nesting._TOKENS", 1 << 9)
    assert min(told_by_first(nested_axes(weight, precision, principal_axes(weight, precision)), hidden)) > 0.98


def test_tokens_with_little_to_tell_have_principal_axes() -> None:
    weight, _, _ = planted()
    precision = torch.full((len(weight),), 1e-4)
    principal = principal_axes(weight, precision)
    assert min(told_by_first(nested_axes(weight, precision, principal), principal)) > 0.99


def test_where_there_is_nothing_to_tell_axes_stay() -> None:
    axes = principal_axes(*planted()[:2])
    for weight, precision in ((torch.zeros(5, D), torch.ones(5)), (torch.ones(5, D), torch.zeros(5))):
        torch.testing.assert_close(nested_axes(weight, precision, axes), axes)
    torch.testing.assert_close(nested_axes(torch.zeros(0, D), torch.zeros(0), axes), axes)


@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([1e-3, 1.0, 1e3]))
def test_they_are_never_worse_than_where_they_start_from(seed: int, tokens: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, precision = scale * torch.randn(tokens, D, generator=generator), torch.rand(tokens, generator=generator)
    start = principal_axes(weight, precision)
    found = nested_axes(weight, precision, start)
    torch.testing.assert_close(found.T @ found, torch.eye(D), atol=1e-4, rtol=0)
    assert objective(weight, precision, found) <= objective(weight, precision, start) * (1 + 1e-4) + 1e-6
