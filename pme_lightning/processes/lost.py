"""What the other processes of a run say when one of them has died: they lose the connection to it."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from pme_lightning.processes.ranks import is_watched

# What gloo and NCCL say when the other end of a connection is gone.
_LOST = re.compile(
    r"closed by (?:remote )?peer|reset by (?:remote )?peer|Socket closed|Broken pipe|Connection refused|remote process"
    r"|Timed out waiting|Watchdog|ncclRemoteError|ncclSystemError|Connection was likely closed|recvBytes|sendBytes",
    re.IGNORECASE,
)


class ProcessLost(RuntimeError):
    """A process of the run died, and the run with it."""


def lost_process(error: BaseException | None) -> str | None:
    """Returns a line on the process that was lost, where that is behind an error; ``None`` where it is not."""
    if not dist.is_initialized() or not any(_LOST.search(str(each)) for each in _chain(error)):
        return None
    return f"rank {dist.get_rank()} lost the connection to another process of the run, which has died"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that led to it: a process may run into more errors while it ends its work."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def telling_of_lost_processes() -> Iterator[None]:
    """Turns the error of a broken connection into one line, and makes sure that there is time to print it.

    Raises:
        ProcessLost: Another process is gone.
    """
    previous_handler, lost = _delay_sigterm(), False
    try:
        yield
    except RuntimeError as error:
        line = lost_process(error)
        lost = line is not None
        if not lost or isinstance(error, ProcessLost):
            raise
        raise ProcessLost(line) from error
    finally:
        if previous_handler is not None:
            # A process that lost another one still has a line to print, and ends by itself after that.
            signal.signal(signal.SIGTERM, signal.SIG_IGN if lost else previous_handler)


def _delay_sigterm() -> Any:
    """Lets a process that lost another one print its line before SIGTERM ends it; returns the previous handler.

    The agent tells all other processes to end as soon as it finds one dead. They are about to find that themselves.
    """
    if not is_watched() or threading.current_thread() is not threading.main_thread():
        return None

    def end(*_: Any) -> None:
        # The error that is being handled where the signal came in between.
        if lost_process(sys.exc_info()[1]) is None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    return signal.signal(signal.SIGTERM, end)
