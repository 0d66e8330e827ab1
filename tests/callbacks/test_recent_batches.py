"""The last batches of a fit: how many are kept, and that they are taken up again."""

from __future__ import annotations

import pytest
import torch

from pme_lightning.callbacks import recent_batches
from pme_lightning.callbacks.recent_batches import RecentBatches


def test_the_last_batches_are_kept_about_16000_rows_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_batches, "sum_over_processes", lambda rows: 2 * rows)
    recent = RecentBatches()
    for number in range(20):
        recent.add((torch.full((2048, 3), number), torch.zeros(2048)), processes=2)
    assert [int(ids[0, 0]) for ids, _ in recent] == [16, 17, 18, 19]
    recent.add((torch.full((5, 3), 20), torch.zeros(5)), processes=2)  # the end of an epoch
    assert [len(ids) for ids, _ in recent] == [2048, 2048, 2048, 5]
    other = RecentBatches()
    other.load_state(recent.state())
    other.add((torch.full((2048, 3), 21), torch.zeros(2048)), processes=2)
    assert [int(ids[0, 0]) for ids, _ in other] == [18, 19, 20, 21]
    # As many as in the other process, which has a row less of the first batch.
    monkeypatch.setattr(recent_batches, "sum_over_processes", lambda _: 8191)
    uneven = RecentBatches()
    for _ in range(5):
        uneven.add((torch.zeros(4096, 3), torch.zeros(4096)), processes=2)
    assert len(list(uneven)) == 3
    monkeypatch.undo()
    large = RecentBatches()
    large.add((torch.zeros(100_000, 3), torch.zeros(100_000)), processes=4)
    assert [len(ids) for ids, _ in large] == [4096]
