"""A process that dies takes the run with it, soon, and every other one says so."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[str]"]
ENDLESS = ["backbone=deepfm", "search=popularity", "baseline=false", "trainer.max_epochs=1000000"]
ENDLESS += ["early_stopping.patience=1000000", "run_dir=out"]


def process_of(rank: int, agent: int) -> int:
    """The process of a rank among those that an agent started."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    for child in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run(start: Start, small: list[str], train: str, tmp_path: Path, victim: int) -> None:
    ddp = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    agent = start(train, *small, *ENDLESS, *ddp)
    assert agent.stdout is not None
    for line in agent.stdout:
        if "finetune: epoch 2" in line:
            break
    processes = [process_of(rank, agent.pid) for rank in (0, 1)]
    os.kill(processes[victim], signal.SIGKILL)
    _, errors = agent.communicate(timeout=240)
    assert agent.returncode == 1, errors
    assert f"error: the process of rank {victim} was killed (SIGKILL), and the run of 2 processes with it" in errors
    assert f"error: rank {1 - victim} lost the connection to another process of the run, which has died" in errors
    assert "Traceback" not in errors
    for process in processes:
        assert not Path(f"/proc/{process}").exists()
    assert not (tmp_path / "out" / "summary.json").exists()
