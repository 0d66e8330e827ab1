"""Runs of the real command line on a small planted click log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pme_lightning.cli import main

ROOT = Path(__file__).parents[2]
SMALL = ["data.rows=6000", "data.tokens=600", "data.num_fields=4", "data.batch_size=256", "model.embedding_dim=8"]
SMALL += ["trainer.max_epochs=2"]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs words through the command line in a folder of its own; returns the summary and where the run is."""
    monkeypatch.chdir(tmp_path)

    def go(*words: str, small: bool = True) -> dict[str, Any]:
        before = set((tmp_path / "runs").glob("*"))
        main([*words, *(SMALL if small else [])])
        (folder,) = set((tmp_path / "runs").glob("*")) - before
        return json.loads((folder / "summary.json").read_text()) | {"folder": folder}

    return go


@pytest.fixture(scope="session")
def pme_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished `pme` run of DeepFM, for tests that only look at it."""
    folder = tmp_path_factory.mktemp("pme") / "run"
    main(
        [
            "backbone=deepfm",
            "backbone.hidden_units=[16]",
            "search.budget=0.3",
            "logger=csv",
            "trainer.log_every_n_steps=5",
            f"run_dir={folder}",
            *SMALL,
        ]
    )
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs train.py in a process of its own, in an empty folder."""

    def go(*words: str, program: str = str(ROOT / "train.py"), **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, program, *words],
            cwd=tmp_path,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return go
