"""The processes of a run: how many there are, which options they need, and how they connect and disconnect.

Whoever starts a run, each of its processes sees the same: torchrun and SLURM start them, and where nobody has,
:func:`pme_lightning.processes.launching.launch` does.
"""

from __future__ import annotations

import atexit
import os
import re
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy

from pme_lightning.embedding import Shard
from pme_lightning.errors import BadInput
from pme_lightning.processes.ranks import is_watched
from pme_lightning.processes.sharded_strategy import ShardedStrategy

# Commands of one process, and why.
ONE_PROCESS = {"predict": "which keeps the rows in order", "export": "which holds the whole table"}


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


def join(trainer: Trainer) -> None:
    """Connects this process with the others of the run, before any of them does anything; alone it does nothing."""
    if trainer.world_size > 1:
        trainer.strategy.setup_environment()


def part_at_exit() -> None:
    """Disconnects this process from the others when it exits, however long it goes on until then.

    gloo's threads hold on to the last tensors that they sent. Where the interpreter ends before they do, it aborts
    (SIGABRT), and a run that went well is reported as one that died.
    """
    atexit.register(_part)  # registered anew by every run of this process: all but one find nothing to do


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shard_of(trainer: Trainer) -> Shard | None:
    """Returns which rows of tables this process holds, where the Trainer's strategy splits them; ``None``: all."""
    if not isinstance(trainer.strategy, ShardedStrategy) or trainer.world_size == 1:
        return None
    return Shard(trainer.global_rank, trainer.world_size)
