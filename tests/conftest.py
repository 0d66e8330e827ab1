"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Where pytest runs as several processes (-n), each of them, and each process that a test starts, has one thread:
# threads of several processes wait for each other on the same cores. Before torch is imported and counts them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import settings
from lightning.pytorch import Trainer

from pme_lightning.data.encoded import EncodedDataModule
from pme_lightning.data.encoded_data import EncodedData

ROOT = Path(__file__).parents[1]
# Where processes of a run meet, as it was before any test.
MEETING = {
    name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK")
}

# Machines differ in speed: how long an example takes says nothing about whether it is right.
settings.register_profile("default", deadline=None, max_examples=50)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps caches out of the user's home, every test at the same random numbers, and connections within a test."""
    monkeypatch.setenv("PME_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    torch.manual_seed(0)
    yield
    # A run of one process with trainer=sharded or ddp connects with itself: later tests, and the processes that they
    # start, must find neither the connection nor the port of it.
    if dist.is_initialized():
        dist.destroy_process_group()
    for name, value in MEETING.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def root() -> Path:
    """The folder of the source tree."""
    return ROOT


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets: PME_TEST_DATA, or shared/data beside the source tree."""
    folder = Path(os.environ.get("PME_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set PME_TEST_DATA to a folder with goodbooks/, frappe/, criteo_small/)")
    return folder


class TinyClicks(EncodedDataModule):
    """A few hundred rows of three fields, whose first field decides the label for most rows."""

    def __init__(self, rows: int = 320, batch_size: int = 32, field_tokens: tuple[int, ...] = (8, 20, 5)) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=64)
        self.tiny_rows, self.tiny_tokens = rows, list(field_tokens)

    def encoded(self) -> EncodedData:
        """Draws the rows; popularity falls with the index in the field."""
        rng = np.random.default_rng(0)
        offsets = np.cumsum([0, *self.tiny_tokens[:-1]])
        splits = {}
        for split, rows in (("train", self.tiny_rows), ("valid", 100), ("test", 90)):
            columns = [
                np.minimum(rng.geometric(0.2, rows) - 1, tokens - 1) + offset
                for tokens, offset in zip(self.tiny_tokens, offsets, strict=True)
            ]
            ids = np.stack(columns, axis=1).astype(np.int32)
            labels = (rng.random(rows) < np.where(ids[:, 0] % 2 == 0, 0.8, 0.2)).astype(np.uint8)
            splits[split] = (ids, labels)
        V = sum(self.tiny_tokens)
        frequencies = torch.from_numpy(np.bincount(splits["train"][0].ravel(), minlength=V))
        names = [f"f{i}" for i in range(len(self.tiny_tokens))]
        return EncodedData("tiny", names, self.tiny_tokens, frequencies, splits)


@pytest.fixture
def tiny() -> TinyClicks:
    """A tiny data module, set up."""
    data = TinyClicks()
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Builds a quiet Trainer on the processor."""

    def build(**options: Any) -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        quiet |= {"enable_checkpointing": False, "limit_val_batches": 0, "default_root_dir": tmp_path}
        return Trainer(**quiet | options)

    return build
