"""Scores by survival: the best n values are those that were left when n were left."""

from __future__ import annotations

import pytest
import torch

from pme_lightning.embedding import SoftThreshold
from pme_lightning.search import Survival, TopK

WEIGHT = torch.tensor([[0.6, -0.1], [0.2, -0.9], [0.5, 0.3]])
LINEAR = torch.tensor([[0.4], [-0.8], [0.05]])


def at(threshold: float) -> SoftThreshold:
    made = SoftThreshold([3], 2, "global", init=-1.0, first_order=True)
    for raw in (made.raw, made.raw_linear):
        torch.nn.init.constant_(raw, float(torch.tensor(threshold).logit()))
    return made


def watched(*thresholds: float) -> tuple[Survival, list[int]]:
    criterion, alive = Survival(), []
    for look, threshold in enumerate(thresholds, start=1):
        criterion.threshold = at(threshold)
        alive.append(criterion.observe(look, WEIGHT, LINEAR))
    return criterion, alive


def test_survivors_are_counted() -> None:
    # Magnitudes .05 .1 .2 .3 .4 .5 .6 .8 .9
    assert watched(0.01, 0.25, 0.45, 0.7)[1] == [9, 6, 4, 2]


def test_the_last_look_above_comes_first_and_the_margin_decides_the_rest() -> None:
    criterion, _ = watched(0.01, 0.25, 0.45, 0.7)
    scores = criterion.scores(WEIGHT, LINEAR, torch.ones(3))
    assert scores.table.floor().tolist() == [[3, 1], [1, 4], [3, 2]]
    assert scores.linear.floor().tolist() == [2, 4, 1]
    # With one threshold for all, the whole order is that of the magnitudes.
    everything = torch.cat([scores.table.flatten(), scores.linear])
    assert torch.equal(everything.argsort(), torch.cat([WEIGHT.flatten(), LINEAR.flatten()]).abs().argsort())


def test_a_value_that_survived_beats_a_larger_one_that_did_not() -> None:
    criterion = Survival()
    criterion.threshold = SoftThreshold([3], 2, "token", init=-1.0)
    with torch.no_grad():
        criterion.threshold.raw.copy_(torch.tensor([[0.7], [0.95], [0.2]]).logit())
    criterion.observe(1, WEIGHT, None)
    found = TopK().allocate(criterion.scores(WEIGHT, None, torch.ones(3)).table, 2)
    # .9 lies below .95; .5 and .3 lie above .2.
    assert found.sizes.tolist() == [0, 0, 2]


def test_one_that_comes_back_counts_from_its_last_look() -> None:
    criterion, _ = watched(0.7, 0.01)
    assert criterion.scores(WEIGHT, LINEAR, torch.ones(3)).table.floor().tolist() == [[2, 2]] * 3


def test_state_goes_round() -> None:
    criterion, _ = watched(0.01, 0.45)
    fresh = Survival()
    fresh.threshold = criterion.threshold
    fresh.load_state({name: tensor.clone() for name, tensor in criterion.state().items()})
    expected = criterion.scores(WEIGHT, LINEAR, torch.ones(3))
    assert torch.equal(fresh.scores(WEIGHT, LINEAR, torch.ones(3)).table, expected.table)
    with pytest.raises(ValueError, match="no accumulator"):
        fresh.load_state({"other": torch.zeros(1)})


def test_without_looks_or_thresholds_there_is_nothing_to_score() -> None:
    with pytest.raises(RuntimeError, match="before it observed"):
        Survival().scores(WEIGHT, LINEAR, torch.ones(3))
    with pytest.raises(RuntimeError, match="set threshold first"):
        Survival().observe(1, WEIGHT, LINEAR)
    with pytest.raises(ValueError, match=r"outside 1 \.\.\. 255"):
        watched(0.1)[0].observe(256, WEIGHT, LINEAR)
