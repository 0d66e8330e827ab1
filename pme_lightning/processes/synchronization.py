"""How the processes of a run wait for one another and agree; a run in one process does neither."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from pme_lightning.processes.ranks import is_main, let_others_speak, local_rank

# Encoding a large data set takes hours, while the other processes wait for it.
_PATIENCE = timedelta(days=7)


def place_among_processes() -> tuple[int, int]:
    """Returns the rank of this process and how many there are; 0 and 1 of a run in one process."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


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
    """Lets one process of each machine do something first: the others find on disk what it has written.

    Raises:
        SystemExit: One of them failed, and says why.
    """
    with _first(local_rank() == 0):
        yield


@contextmanager
def main_first() -> Iterator[None]:
    """Lets the main process do something first, and the others after that.

    Raises:
        SystemExit: It failed, and says why.
    """
    with _first(is_main()):
        yield


@contextmanager
def _first(first: bool) -> Iterator[None]:
    """Lets some processes go first, and ends the others where one of the first failed."""
    if not dist.is_initialized():
        yield
        return
    group, failed = dist.new_group(backend="gloo", timeout=_PATIENCE), torch.zeros(1, dtype=torch.int32)

    def meet() -> None:
        """Waits for all processes, and tells them whether one of those that went first has failed."""
        dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=group)

    if not first:
        meet()
        if failed:
            _end_once_explained()
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
            _end_once_explained()


def _end_once_explained() -> NoReturn:
    """Ends this process, after the one that failed has had time to say why."""
    let_others_speak(told=True)
    sys.exit(2)
