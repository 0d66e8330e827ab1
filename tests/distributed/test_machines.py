"""Two agents of torchrun, as on two machines, train through together; what was killed there goes on."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pme_lightning.search import SearchResult

pytestmark = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[str]"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_machines_train_through_and_go_on_after_a_kill(
    start: Start, alone: Callable[..., dict[str, Any]], small: list[str], train: str, tmp_path: Path
) -> None:
    words = ["backbone=deepfm", "baseline=false", "search.budget=0.3", "search.schedule.min_steps=150", *small]
    words += ["search.schedule.min_steps_max_epochs=null"]

    def machines(*where: str) -> list[subprocess.Popen[str]]:
        meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
        meeting += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--max-restarts", "0"]
        agents = []
        for node in (0, 1):
            host = ["--rdzv-conf", f"is_host={int(node == 0)}", "--local-addr", "127.0.0.1"]
            agents.append(start("-m", "torch.distributed.run", *meeting, *host, train, *words, *where))
        return agents

    two = tmp_path / "two"
    agents = machines(f"run_dir={two}", "data.batch_size=256", "checkpoint_every_n_steps=3")
    # Which of the agents has rank 0, and speaks, is settled where they meet.
    main = next_that_says("search: epoch 11", agents)  # of 15, the second half is scored
    for agent in agents:
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        if agent is not main:
            os.kill(int(children[0]), signal.SIGKILL)
    for agent in agents:
        _, errors = agent.communicate(timeout=240)
        assert agent.returncode == 1, errors
    assert (two / "checkpoints" / "search" / "resume.ckpt").is_file()

    agents = machines(f"resume={two}", "data.batch_size=256", "checkpoint_every_n_steps=3")
    said = []
    for agent in agents:
        output, errors = agent.communicate(timeout=300)
        assert agent.returncode == 0, errors
        said.append(output)
    assert sorted(output.count("run folder") for output in said) == [0, 1]
    assert "goes on from" in said[0] + said[1]

    one = tmp_path / "one"
    expected = alone(one, *words, "data.batch_size=512")
    # After 150 steps of rounding in two ways a size may differ by one.
    sizes, others = (SearchResult.load(folder / "sizes.safetensors").sizes for folder in (two, one))
    assert (sizes - others).abs().max() <= 1
    assert (sizes != others).float().mean() < 0.01
    found = json.loads((two / "summary.json").read_text())
    assert abs(found["test"]["auc"] - expected["test"]["auc"]) < 1e-3
    assert found["search"]["epochs"] == expected["search"]["epochs"]


def next_that_says(text: str, agents: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Reads what agents say until one of them, the one with rank 0, says a text."""
    with selectors.DefaultSelector() as waiting:
        for agent in agents:
            assert agent.stdout is not None
            waiting.register(agent.stdout, selectors.EVENT_READ, agent)
        while True:
            for key, _ in waiting.select(timeout=120):
                line = key.data.stdout.readline()
                if text in line:
                    return key.data
                assert line, "an agent ended before it said so"
