"""Learned thresholds: values and gradients against the formula on the whole table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pme_lightning.embedding import FullEmbedding, SoftThreshold
from pme_lightning.embedding.soft_threshold import soft_threshold
from pme_lightning.errors import BadInput

FIELDS = [3, 1, 5]
V, D = sum(FIELDS), 4
GRANULARITIES = ["global", "dimension", "field", "token", "token_dimension"]
IDS = torch.tensor([[0, 3, 8], [2, 3, 4], [0, 3, 5]], dtype=torch.int32)


@given(value=st.floats(-3, 3, width=32), threshold=st.floats(0, 1, width=32))
def test_values_move_to_zero_and_stay(value: float, threshold: float) -> None:
    expected = max(value - threshold, 0) if value > 0 else min(value + threshold, 0)
    found = soft_threshold(torch.tensor(value, dtype=torch.float64), torch.tensor(threshold, dtype=torch.float64))
    assert found.item() == expected


def thresholded(granularity: str) -> FullEmbedding:
    full = FullEmbedding(V, D, first_order=True, init_std=1.0)
    torch.nn.init.normal_(full.linear)
    full.threshold = SoftThreshold(FIELDS, D, granularity, first_order=True)
    for raw in full.threshold.parameters():
        torch.nn.init.normal_(raw)
    return full


def on_whole_table(full: FullEmbedding, granularity: str) -> tuple[Tensor, Tensor]:
    """The table and the first-order weights as they should be read."""
    raw, raw_linear = full.threshold.raw, full.threshold.raw_linear
    if granularity == "field":
        fields = torch.tensor(FIELDS)
        raw, raw_linear = raw.repeat_interleave(fields, 0), raw_linear.repeat_interleave(fields, 0)
    pairs = (full.weight, raw), (full.linear, raw_linear)
    table, column = (w.sign() * (w.abs() - s.sigmoid()).relu() for w, s in pairs)
    return table, column


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_what_is_read_and_its_gradients(granularity: str) -> None:
    full = thresholded(granularity)
    shapes = {"global": (1, 1), "dimension": (1, D), "field": (3, 1), "token": (V, 1), "token_dimension": (V, D)}
    assert full.threshold.raw.shape == shapes[granularity]
    assert full.threshold.raw_linear.shape == (shapes[granularity][0], 1)
    parameters = list(full.parameters())
    table, column = on_whole_table(full, granularity)
    expected = table[IDS.long()], column[IDS.long(), 0]
    embeddings, linear = full.lookup(IDS)
    assert torch.allclose(embeddings, expected[0])
    assert torch.allclose(linear, expected[1])
    assert (embeddings == 0).any()
    weights = torch.randn(*embeddings.shape), torch.randn(*linear.shape)
    found, wanted = (
        torch.autograd.grad((a * weights[0]).sum() + (b * weights[1]).sum(), parameters)
        for a, b in ((embeddings, linear), expected)
    )
    for gradient, reference in zip(found, wanted, strict=True):
        assert torch.allclose(gradient, reference, atol=1e-6)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_margins_tell_what_survives(granularity: str) -> None:
    full = thresholded(granularity)
    table, column = on_whole_table(full, granularity)
    ids = torch.tensor([8, 0, 3])
    margin, linear_margin = full.threshold.margins(ids, full.weight[ids], full.linear[ids])
    assert torch.equal(margin > 0, table[ids] != 0)
    assert torch.equal(linear_margin > 0, column[ids] != 0)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_folding_changes_no_output(granularity: str) -> None:
    full = thresholded(granularity)
    before = [tensor.clone() for tensor in full.lookup(IDS)]
    full.fold_threshold_()
    assert full.threshold is None
    assert len(list(full.parameters())) == 2
    for found, expected in zip(full.lookup(IDS), before, strict=True):
        assert torch.equal(found, expected)
    full.fold_threshold_()
    assert torch.equal(full.lookup(IDS)[0], before[0])


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_state_from_within_a_search_loads_into_a_fresh_table(granularity: str) -> None:
    full = thresholded(granularity)
    fresh = FullEmbedding(V, D, first_order=True)
    fresh.load_state_dict(full.state_dict())
    for found, expected in zip(fresh.lookup(IDS), full.lookup(IDS), strict=True):
        assert torch.equal(found, expected)


def test_an_unknown_granularity_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'token'"):
        SoftThreshold(FIELDS, D, "tokens")
