"""A process that dies takes the run with it, soon; who it was is said, and how to go on."""

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
    # The other one finds the connection broken, or is told to end before that: then the main process alone speaks.
    lost = f"error: rank {1 - victim} lost the connection to another process of the run, which has died"
    kept = "what was done so far is in out; the same command with resume=out goes on"
    others = [line for line in errors.splitlines() if "was killed" not in line]
    assert all(line in (f"{lost}; {kept}", f"interrupted: {kept}") for line in others), errors
    assert others or victim == 0, errors
    for process in processes:
        assert not Path(f"/proc/{process}").exists()
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_told_to_end_ends_the_run(start: Start, small: list[str], train: str, victim: int) -> None:
    agent = start(train, *small, *ENDLESS, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    assert agent.stdout is not None
    for line in agent.stdout:
        if "finetune: epoch 2" in line:
            break
    os.kill(process_of(victim, agent.pid), signal.SIGTERM)
    _, errors = agent.communicate(timeout=120)
    assert agent.returncode == 130, errors
    assert f"rank {1 - victim} lost the connection" in errors or "interrupted: " in errors
    assert "Traceback" not in errors


def test_only_the_process_that_found_the_folder_bad_says_so(
    start: Start, small: list[str], train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    agent = start(train, *small, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "run_dir=/proc/no")
    _, errors = agent.communicate(timeout=120)
    assert agent.returncode == 2, errors
    assert [line for line in errors.splitlines() if line.startswith("error:")] == [
        "error: run_dir: cannot make the folder '/proc/no': No such file or directory"
    ]
    assert list(temporary.iterdir()) == []
