"""How scores are spread, against sorting them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pme_lightning.score_spectrum import score_spectrum
from pme_lightning.search import Scores


@given(st.lists(st.floats(0, 1e6, width=32), min_size=4, max_size=40), st.booleans())
def test_every_point_of_the_curve_is_that_of_the_sorted_scores(values: list[float], first_order: bool) -> None:
    D = 2
    values = values[: len(values) // D * D]
    table = torch.tensor(values).view(-1, D)
    linear = table.sum(1) if first_order else None
    spectrum = score_spectrum(Scores(table, linear))
    ranked = sorted([*values, *([] if linear is None else linear.tolist())], reverse=True)
    total = sum(ranked)
    assert spectrum.values == len(ranked)
    assert spectrum.axes == pytest.approx([sum(values[0::2]), sum(values[1::2])])
    assert spectrum.first_order == (None if linear is None else pytest.approx(float(linear.sum())))
    if total == 0:
        assert spectrum.curve == []
        return
    assert spectrum.curve[0][:2] == (0.0, 0.0)
    for fraction, share, lowest in spectrum.curve[1:]:
        best = ranked[: round(fraction * len(ranked))]
        assert share == pytest.approx(sum(best) / total, rel=1e-6)
        assert lowest == pytest.approx(best[-1])
    assert spectrum.curve[-1][0] == pytest.approx(sum(value > 0 for value in ranked) / len(ranked))
    assert spectrum.curve[-1][1] == pytest.approx(1)


def test_a_curve_stays_small() -> None:
    spectrum = score_spectrum(Scores(torch.rand(5000, 8) ** 8))
    assert 50 < len(spectrum.curve) <= 202
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(spectrum.curve, spectrum.curve[1:], strict=False)]
    assert all(step[0] >= 0 and step[1] >= 0 for step in steps)


def test_scores_that_are_no_numbers_do_not_count() -> None:
    spectrum = score_spectrum(Scores(torch.tensor([[1.0, float("nan")], [float("inf"), -3.0]])))
    assert spectrum.axes == [1.0, 0.0]
    assert spectrum.curve == [(0.0, 0.0, 1.0), (0.25, 1.0, 1.0)]
