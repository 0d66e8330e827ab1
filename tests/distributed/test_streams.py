"""A streamed data set over processes and workers: no hang, and every row counts once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.slow
Alone = Callable[..., dict[str, Any]]


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    """Shards of very different lengths, whose rows no number of processes divides."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=300)
    for split, sizes in (("train", [2000, 1, 900]), ("valid", [400, 3]), ("test", [611])):
        (tmp_path / "clicks" / split).mkdir(parents=True)
        for number, size in enumerate(sizes):
            user, item = generator.integers(0, 200, size), generator.integers(200, 300, size)
            label = generator.random(size) < 1 / (1 + np.exp(-2 * weight[user] - 2 * weight[item]))
            frame = pl.DataFrame({"label": label.astype(np.uint8), "user": user, "item": item})
            frame.write_parquet(tmp_path / "clicks" / split / f"part-{number}.parquet")
    return tmp_path / "clicks"


def test_two_processes_train_and_count_every_row_once(
    finish: Callable[..., str], alone: Alone, train: str, clicks: Path, tmp_path: Path
) -> None:
    words = ["fit", "backbone=fm", "data=hf", f"data.path={clicks}", "data.streaming=true", "data.batch_size=128"]
    words += ["data.eval_batch_size=100", f"data.cache_dir={tmp_path / 'cache'}", "model.embedding_dim=4"]
    words += ["trainer.max_epochs=1", "logger=csv", "trainer.log_every_n_steps=1"]
    ddp = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    # One each: how rows are dealt out to more of them, or none, is tested without starting any.
    ddp += ["data.num_workers=1"]
    finish(train, *words, *ddp, f"run_dir={tmp_path / 'two'}")
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["data"]["rows"] == {"train": 2901, "valid": 403, "test": 611}
    curve = tmp_path / "two" / "logs" / "full" / "metrics.csv"
    # 2,901 rows in global batches of 256, in both processes alike.
    assert len(pl.read_csv(curve)["train_loss"].drop_nulls()) == 12

    # One process measures the same over all rows.
    (best,) = (tmp_path / "two" / "checkpoints").rglob("best.ckpt")
    again = alone(tmp_path / "again", "test", f"ckpt_path={best}", *words[2:5], "logger=none")
    (block,) = [one for one in (summary, summary.get("baseline")) if one and one.get("test")][:1]
    assert block["test"]["logloss"] == pytest.approx(again["test"]["logloss"], abs=1e-6)
    # But for rows of next to the same logit, whose order rounding decides: a pair is 1e-5.
    assert block["test"]["auc"] == pytest.approx(again["test"]["auc"], abs=3e-5)
