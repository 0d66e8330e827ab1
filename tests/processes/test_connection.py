"""Which process this is, and what is asked of those that torchrun or SLURM started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from pme_lightning.cli import main
from pme_lightning.errors import BadInput
from pme_lightning.processes import ranks
from pme_lightning.processes.connection import check_processes, missing_processes
from pme_lightning.processes.launching import launch
from pme_lightning.processes.lost import ProcessLost, telling_of_lost_processes
from pme_lightning.processes.ranks import global_rank, is_main, local_rank

NAMES = ["RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"]


@pytest.fixture(autouse=True)
def _nobody_started_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def started(monkeypatch: pytest.MonkeyPatch, world: int, local: int) -> None:
    """What torchrun tells its processes."""
    values = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": local, "TORCHELASTIC_RUN_ID": "x"}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("told", "rank", "local"),
    [
        ({}, 0, 0),
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5, 1),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, 3, 0),
        ({"RANK": "2", "LOCAL_RANK": "2", "SLURM_PROCID": "0"}, 2, 2),
        ({"LOCAL_RANK": "1"}, 1, 1),
    ],
)
def test_the_rank_is_what_was_told(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], rank: int, local: int
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (global_rank(), local_rank(), is_main()) == (rank, local, rank == 0)


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto", "max_epochs": 3}
    assert check_processes("pme", given) == given
    started(monkeypatch, world=6, local=3)
    expected = {"devices": 3, "num_nodes": 2, "strategy": "auto", "max_epochs": 3, "use_distributed_sampler": False}
    assert check_processes("pme", given) == expected
    assert check_processes("pme", given | {"devices": "auto", "num_nodes": 2})["devices"] == 3


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("pme", {"devices": 4}, "trainer.devices: 4 were asked for, torchrun started 2; leave it out"),
        ("pme", {"num_nodes": 3}, "trainer.num_nodes: 3 were asked for, torchrun started 1"),
        ("predict", {}, "predict runs in one process"),
        ("fit", {"strategy": "ddp_spawn"}, "trainer.strategy: ddp_spawn loses what a search finds"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: str, options: dict[str, Any], message: str
) -> None:
    started(monkeypatch, world=2, local=2)
    with pytest.raises(BadInput, match=message):
        check_processes(command, options)


def test_processes_that_nobody_has_started_are_counted() -> None:
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    assert missing_processes(Trainer(devices=1, **quiet)) == 1
    assert missing_processes(Trainer(devices=1, strategy="ddp", **quiet)) == 1
    assert missing_processes(Trainer(devices=2, strategy="ddp", **quiet)) == 2
    with pytest.raises(BadInput, match=r"trainer.num_nodes: 2 machines are started by torchrun or srun: docs/scale.md"):
        missing_processes(Trainer(devices=2, num_nodes=2, strategy="ddp", **quiet))


@pytest.mark.parametrize("late", [0, 1])
def test_a_run_whose_processes_refuse_their_input_ends_with_their_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], late: int
) -> None:
    # The first one to end has the others ended: whichever it is, the reason must have been said by then.
    delay = f"import os, time\nif os.environ.get('RANK') == '{late}':\n    time.sleep(2)\n"
    (tmp_path / "sitecustomize.py").write_text(delay)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        launch(["fit", "backbone=nope"], 2)
    assert ended.value.code == 2
    assert capfd.readouterr().err.count("error: backbone=nope: no such choice") == 1


def test_what_one_process_alone_refuses_it_says_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(ranks.time, "sleep", waits.append)
    started(monkeypatch, world=2, local=2)
    with pytest.raises(SystemExit) as ended:
        main(["fit", "backbone=nope"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: rank 1: backbone=nope: no such choice")
    ranks.let_others_speak(told=True)
    assert len(waits) == 2
    assert waits[1] > waits[0] > 0  # whoever was only told ends after the one that says why
    monkeypatch.setenv("RANK", "0")
    ranks.let_others_speak()
    assert len(waits) == 2


def test_without_an_agent_the_main_process_speaks_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ranks.time, "sleep", lambda _: pytest.fail("waited"))
    for rank, said in (("1", ""), ("0", "error: backbone=nope: no such choice")):
        monkeypatch.setenv("SLURM_PROCID", rank)
        with pytest.raises(SystemExit):
            main(["fit", "backbone=nope"])
        err = capsys.readouterr().err
        assert err.startswith(said)
        assert bool(err) == bool(said)


def test_other_errors_are_not_taken_for_a_lost_process() -> None:
    with pytest.raises(RuntimeError, match="Connection closed by peer") as raised, telling_of_lost_processes():
        raise RuntimeError("Connection closed by peer")  # there is no other process
    assert not isinstance(raised.value, ProcessLost)


LOSING = """
import os, signal, sys
import torch.distributed as dist
from pme_lightning.processes.lost import ProcessLost, telling_of_lost_processes
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
try:
    with telling_of_lost_processes():
        try:
            raise RuntimeError(sys.argv[1])
        except RuntimeError:
            os.kill(os.getpid(), signal.SIGTERM)  # as the agent does, here while the Trainer is taken down
            raise
except ProcessLost as lost:
    os.kill(os.getpid(), signal.SIGTERM)
    print(lost)
"""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("Connection closed by peer", 0, "rank 0 lost the connection to another process of the run, which has died\n"),
        ("out of memory", -signal.SIGTERM, ""),
    ],
)
def test_a_process_that_is_told_to_end_says_first_that_another_one_is_lost(error: str, code: int, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOSING, error],
        env={**os.environ, "TORCHELASTIC_RUN_ID": "any"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (code, said), ended.stderr
