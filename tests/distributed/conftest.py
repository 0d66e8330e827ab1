"""Runs of several processes on this machine, connected by gloo."""

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

TRAIN = str(Path(__file__).parents[2] / "train.py")
# 5003 training rows: the last batch of an epoch has 395 rows of 512, one more for one process than for the other.
SMALL = [
    "data.rows=6254",
    "data.tokens=600",
    "data.num_fields=4",
    "model.embedding_dim=8",
    "backbone.hidden_units=[16]",
]
SMALL += ["data.eval_batch_size=128", "trainer.max_epochs=2", "logger=csv", "trainer.log_every_n_steps=1"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def small() -> list[str]:
    """Words that make a run small, and leave the curves of every step."""
    return SMALL


@pytest.fixture
def train() -> str:
    """The path of train.py."""
    return TRAIN


@pytest.fixture
def torchrun() -> list[str]:
    """The words that start torchrun on this machine."""
    return ["-m", "torch.distributed.run", "--standalone"]


def environment() -> dict[str, str]:
    """One thread a process, as the tests' machine has few cores; and no seed that another test has left."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    return kept | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a program of this Python in a folder of its own."""

    def go(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return go


@pytest.fixture
def finish(start: Start) -> Callable[..., str]:
    """Runs a program to its end; returns what it said on standard output."""

    def go(*words: str) -> str:
        process = start(*words)
        output, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        return output

    return go


@pytest.fixture
def alone() -> Callable[..., dict[str, Any]]:
    """Runs a command line in this process alone; returns the summary."""

    def go(folder: Path, *words: str) -> dict[str, Any]:
        main([*words, f"run_dir={folder}"])
        return json.loads((folder / "summary.json").read_text())

    return go
