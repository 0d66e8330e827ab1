"""Runs that span processes: who starts them, how they agree, and what is said when one of them dies.

Whoever starts a run, each of its processes sees the same: torchrun and SLURM start them, and where nobody has,
:func:`launch` does with the agent that torchrun is made of. It watches the processes: when one dies it ends the others.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy

from pme_lightning.embedding import Shard
from pme_lightning.errors import BadInput
from pme_lightning.ranks import is_main, is_watched, let_others_speak, local_rank
from pme_lightning.sharded_strategy import ShardedStrategy

# Commands of one process, and why.
ONE_PROCESS = {"predict": "which keeps the rows in order", "export": "which holds the whole table"}
# Encoding a large data set takes hours, while the other processes wait for it.
_PATIENCE = timedelta(days=7)
# What gloo and NCCL say when the other end of a connection is gone.
_LOST = re.compile(
    r"closed by (?:remote )?peer|reset by (?:remote )?peer|Socket closed|Broken pipe|Connection refused|remote process"
    r"|Timed out waiting|Watchdog|ncclRemoteError|ncclSystemError|Connection was likely closed|recvBytes|sendBytes",
    re.IGNORECASE,
)


class ProcessLost(RuntimeError):
    """A process of the run died, and the run with it."""


def started_processes() -> dict[str, int]:
    """Returns the Trainer's ``devices`` and ``num_nodes`` as torchrun started them; nothing if it did not."""
    if not is_watched():
        return {}
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": local, "num_nodes": world // local}


def check_processes(command: str, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the Trainer's options for the processes that there are.

    Args:
        command: The command.
        options: The Trainer's options as they were given.

    Raises:
        BadInput: They ask for other processes than torchrun started, or for such as a run cannot be made of.
    """
    strategy = options.get("strategy")
    if isinstance(strategy, str) and re.search("spawn|fork|notebook", strategy):
        raise BadInput(f"trainer.strategy: {strategy} loses what a search finds in its processes; use ddp")
    started = started_processes()
    if not started:
        return options
    for key, found in started.items():
        asked = options.get(key)
        if isinstance(asked, int) and asked > 1 and asked != found:
            raise BadInput(f"trainer.{key}: {asked} were asked for, torchrun started {found}; leave it out")
    if command in ONE_PROCESS and int(os.environ["WORLD_SIZE"]) > 1:
        raise BadInput(f"{command} runs in one process, {ONE_PROCESS[command]}: start it without torchrun")
    # The data module deals its batches out to the ranks itself.
    return {**options, **started, "use_distributed_sampler": False}


def missing_processes(trainer: Trainer) -> int:
    """Returns how many processes the Trainer needs and nobody has started; 1 if it has what it needs.

    Raises:
        BadInput: They would be on several machines.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy) or trainer.world_size == 1:
        return 1
    if strategy.cluster_environment is None or strategy.cluster_environment.creates_processes_externally:
        return 1
    if trainer.num_nodes > 1:
        raise BadInput(
            f"trainer.num_nodes: {trainer.num_nodes} machines are started by torchrun or srun: docs/scale.md"
        )
    return trainer.num_devices


def launch(words: Sequence[str], processes: int) -> None:
    """Runs a command line in several processes of this machine, and waits for them.

    Args:
        words: The words of the command line.
        processes: How many.

    Raises:
        SystemExit: They found their input bad, or were interrupted, and said so.
        ProcessLost: One of them died.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What the agent says of a process that failed, that process has said better itself.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with TemporaryDirectory(prefix="pme_lightning_") as logs:  # the agent leaves behind what it is not given
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                logs_specs=DefaultLogsSpecs(log_dir=logs),
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,
                shutdown_timeout=15,
            )
            elastic_launch(config, sys.executable)("-u", "-m", "pme_lightning", *words)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        killed = {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
        rank, code = next(iter(killed.items()), (error.get_first_failure()[0], error.get_first_failure()[1].exitcode))
        if code in (2, 130):
            sys.exit(code)
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        raise ProcessLost(f"the process of rank {rank} {how}, and the run of {processes} processes with it") from None
    except SignalException:
        sys.exit(130)


def join(trainer: Trainer) -> None:
    """Connects this process with the others of the run, before any of them does anything; alone it does nothing."""
    if trainer.world_size > 1:
        trainer.strategy.setup_environment()


def part_at_exit() -> None:
    """Lets this process, which is done, take leave of the others when it exits, however long it goes on till then.

    gloo's threads hold on to the last tensors that they sent. Where the interpreter ends before they do, it aborts
    (SIGABRT), and a run that went well is reported as one that died.
    """
    atexit.register(_part)  # once for each run of this process: but for the first it finds nothing left to do


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shard_of(trainer: Trainer) -> Shard | None:
    """Returns which rows of tables this process holds, where the Trainer's strategy splits them; ``None``: all."""
    if not isinstance(trainer.strategy, ShardedStrategy) or trainer.world_size == 1:
        return None
    return Shard(trainer.global_rank, trainer.world_size)


def agree(value: str | None) -> str:
    """Returns the main process's value, in every process."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    assert values[0] is not None
    return values[0]


def wait_for_all() -> None:
    """Waits until every process is here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def first_on_each_machine() -> Iterator[None]:
    """Lets one process of each machine do something first: what it leaves on disk, the others find there.

    Raises:
        SystemExit: One of them failed, and says why.
    """
    with _first(local_rank() == 0):
        yield


@contextmanager
def main_first() -> Iterator[None]:
    """Lets the main process do something first, the others after that.

    Raises:
        SystemExit: It failed, and says why.
    """
    with _first(is_main()):
        yield


@contextmanager
def _first(first: bool) -> Iterator[None]:
    """Lets some processes go first, and ends the others where one of those failed."""
    if not dist.is_initialized():
        yield
        return
    group, failed = dist.new_group(backend="gloo", timeout=_PATIENCE), torch.zeros(1, dtype=torch.int32)

    def meet() -> None:
        dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=group)

    if not first:
        meet()
        if failed:
            _end_once_said()
    try:
        yield
    except BaseException:
        if first:
            failed.fill_(1)
            meet()
        raise
    if first:
        meet()
        if failed:
            _end_once_said()


def _end_once_said() -> NoReturn:
    """Ends this process, once the one that failed has said why."""
    let_others_speak(told=True)
    sys.exit(2)


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those before it: ending what it was doing a process may run into others."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def lost_process(error: BaseException | None) -> str | None:
    """Returns what there is to say where an error came of another process being gone; ``None``: it did not."""
    if not dist.is_initialized() or not any(_LOST.search(str(each)) for each in _led_to(error)):
        return None
    return f"rank {dist.get_rank()} lost the connection to another process of the run, which has died"


@contextmanager
def telling_of_lost_processes() -> Iterator[None]:
    """Turns what a broken connection raises into one line, and sees that there is time to say it.

    Raises:
        ProcessLost: Another process is gone.
    """
    before, lost = _let_losses_be_told(), False
    try:
        yield
    except RuntimeError as error:
        told = lost_process(error)
        lost = told is not None
        if not lost or isinstance(error, ProcessLost):
            raise
        raise ProcessLost(told) from error
    finally:
        if before is not None:
            # One that lost another has a line to print yet, and ends by itself after that.
            signal.signal(signal.SIGTERM, signal.SIG_IGN if lost else before)


def _let_losses_be_told() -> Any:
    """Has SIGTERM wait for what a process that lost another one has to say, and returns the handler before this one.

    The agent tells all others to end as soon as it finds one dead: they are then about to find that themselves.
    """
    if not is_watched() or threading.current_thread() is not threading.main_thread():
        return None

    def end(*_: Any) -> None:
        if lost_process(sys.exc_info()[1]) is None:  # what is being handled where the signal came in between
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    return signal.signal(signal.SIGTERM, end)
