"""Two and three processes give what one process gives that sees the same batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from pme_lightning.search import SearchResult

pytestmark = pytest.mark.slow
Alone = Callable[..., dict[str, Any]]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def curve(folder: Path, phase: str, name: str) -> torch.Tensor:
    return pl.read_csv(folder / "logs" / phase / "metrics.csv")[name].drop_nulls().to_torch()


def test_two_processes_are_one_of_twice_the_batch(
    finish: Callable[..., str], alone: Alone, small: list[str], train: str, tmp_path: Path
) -> None:
    # A short search and a slow network: Adam makes a whole step of a row that rounding puts across the kink of a ReLU.
    words = ["backbone=deepfm", "search.budget=0.3", "search.schedule.min_steps=30", "optimizer.lr=1e-4", *small]
    one, two = tmp_path / "one", tmp_path / "two"
    alone(one, *words, "data.batch_size=512")
    ddp = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    said = finish(train, *words, *ddp, "data.batch_size=256", f"run_dir={two}")

    sizes, expected = (SearchResult.load(folder / "sizes.safetensors") for folder in (two, one))
    assert torch.equal(sizes.sizes, expected.sizes)
    assert torch.equal(sizes.linear, expected.linear)
    for phase in ("search", "finetune", "full"):
        losses = curve(two, phase, "train_loss")
        assert len(losses) >= 20
        torch.testing.assert_close(losses, curve(one, phase, "train_loss"), atol=1e-4, rtol=0)
    for phase in ("finetune", "full"):
        torch.testing.assert_close(curve(two, phase, "valid_auc"), curve(one, phase, "valid_auc"), atol=1e-4, rtol=0)
    assert summary(two)["search"]["epochs"] == summary(one)["search"]["epochs"]
    assert summary(two)["embedding"] == summary(one)["embedding"]

    # Every row counts once, over 625 of them in parts of 128: one process measures the same.
    for phase, block in (("finetune", summary(two)), ("full", summary(two)["baseline"])):
        again = alone(tmp_path / phase, "test", f"ckpt_path={two}/checkpoints/{phase}/best.ckpt", "logger=none")
        assert block["test"]["logloss"] == pytest.approx(again["test"]["logloss"], abs=1e-6)
        # But for two rows of next to the same logit, whose order rounding decides: one of 97,000 pairs.
        assert block["test"]["auc"] == pytest.approx(again["test"]["auc"], abs=3e-5)

    # One folder, one run of the logger, one voice.
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert sorted(path.name for path in (two / "logs").rglob("*.csv")) == ["metrics.csv"] * 4
    lines = said.splitlines()
    assert sum(line.startswith("  finetune: epoch") for line in lines) == 2
    assert sum("run folder" in line for line in lines) == 1
    assert not list(tmp_path.rglob("lightning_logs"))


def test_torchrun_starts_the_processes_of_a_curve(
    finish: Callable[..., str], alone: Alone, small: list[str], train: str, torchrun: list[str], tmp_path: Path
) -> None:
    words = ["pareto", "backbone=dcn", "search=fisher", "budgets=[0.5,0.2]", "baseline=false", *small]
    one, three = tmp_path / "one", tmp_path / "three"
    alone(one, *words, "data.batch_size=384")
    finish(*torchrun, "--nproc-per-node", "3", train, *words, "data.batch_size=128", f"run_dir={three}")
    points = zip(summary(three)["pareto"], summary(one)["pareto"], strict=True)
    for found, expected in points:
        sizes = [SearchResult.load(folder / expected["sizes"]).sizes for folder in (three, one)]
        assert torch.equal(*sizes)
        assert found["test"]["auc"] == pytest.approx(expected["test"]["auc"], abs=1e-3)
    assert (three / "pareto.csv").is_file()
