"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# Machines differ in speed: how long an example takes says nothing about whether it is right.
settings.register_profile("default", deadline=None, max_examples=50)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps caches out of the user's home, and every test at the same random numbers."""
    monkeypatch.setenv("PME_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    torch.manual_seed(0)


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
