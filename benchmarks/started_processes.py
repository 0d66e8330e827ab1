"""What torchrun says of the process of a benchmark that needs several."""

from __future__ import annotations

import argparse
import os


def rank_and_processes(parser: argparse.ArgumentParser) -> tuple[int, int]:
    """Returns this process's rank and how many there are; where torchrun has not started it, says how to and exits."""
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except KeyError:
        parser.error(
            "it takes several processes: python -m torch.distributed.run --standalone --nproc-per-node 2 "
            f"benchmarks/{parser.prog}"
        )
