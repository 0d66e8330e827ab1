"""Starts the processes of a run on this machine, with the agent that torchrun is made of.

The agent watches the processes: when one dies it ends the others.
"""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pme_lightning.processes.lost import ProcessLost

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def launch(words: Sequence[str], processes: int) -> None:
    """Runs a command line in several processes of this machine, and waits for them.

    Args:
        words: The words of the command line.
        processes: How many.

    Raises:
        SystemExit: They refused their input, or were interrupted, and said so.
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
        rank, code = _first_to_end(error)
        if code in (2, 130):
            sys.exit(code)
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        raise ProcessLost(f"the process of rank {rank} {how}, and the run of {processes} processes with it") from None
    except SignalException:
        sys.exit(130)


def _first_to_end(error: ChildFailedError) -> tuple[int, int]:
    """Returns rank and exit code of a process that was killed (not by the agent), or else of the first to fail."""
    for rank, failure in error.failures.items():
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return rank, failure.exitcode
    rank, failure = error.get_first_failure()
    return rank, failure.exitcode
