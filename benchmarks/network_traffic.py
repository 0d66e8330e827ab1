"""Bytes that a step of data parallel training sends, measured on the loopback device of this machine.

    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/network_traffic.py

Every process trains the full-size table for some steps and scores it, as a search does, or with ``--phase finetune``
one of a tenth of its size; with ``--strategy sharded`` the rows of the table are split over the processes. The kernel
counts what passes the loopback device; other local traffic is counted too.
"""

from __future__ import annotations

import argparse
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from started_processes import rank_and_processes

from pme_lightning import CTRModule, SyntheticDataModule
from pme_lightning.callbacks import PruningCallback, TransferCallback
from pme_lightning.embedding import Shard
from pme_lightning.errors import BadInput
from pme_lightning.search import AfterWarmup, ExpectedInformation, Popularity, Prefix, SearchResult

WARM_UP, MEASURED = 5, 20


class Traffic(Callback):
    """Counts the bytes on the loopback device over some steps.

    Attributes:
        sent: Bytes a step that each process sent, on average.
    """

    def __init__(self) -> None:
        self.sent = 0.0
        self._before = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reads the counter before and after the steps that are measured."""
        if trainer.global_step == WARM_UP:
            dist.barrier()
            self._before = loopback_bytes()
        if trainer.global_step == WARM_UP + MEASURED:
            dist.barrier()
            self.sent = (loopback_bytes() - self._before) / MEASURED / trainer.world_size


def loopback_bytes() -> int:
    """What the kernel has seen sent over the loopback device."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise RuntimeError("there is no loopback device in /proc/net/dev")


def measured(module: CTRModule, data: SyntheticDataModule, strategy: str, *callbacks: Callback) -> float:
    """Trains, and returns the bytes a step that each process sent."""
    traffic = Traffic()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        strategy=strategy,
        max_steps=WARM_UP + MEASURED,  # a search is not let come to its end
        limit_val_batches=0,
        enable_checkpointing=False,
        callbacks=[traffic, *callbacks],
        **quiet,
    )
    with suppress(BadInput):  # of a search that ends early
        trainer.fit(module, datamodule=data)
    return traffic.sent


def resident() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measures both phases; the main process prints two lines for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--optimizer", default="pme_lightning.optim.LazyAdagrad", help="of the table")
    parser.add_argument("--strategy", choices=("ddp", "sharded"), default="ddp")
    parser.add_argument("--phase", choices=("search", "finetune"), default="search")
    options = parser.parse_args()
    rank, processes = rank_and_processes(parser)
    data = SyntheticDataModule(rows=200_000, tokens=options.tokens, num_fields=8, batch_size=1024)
    data.prepare_data()
    data.setup()
    before = resident()
    torch.manual_seed(0)
    network = {"hidden_units": [64]}
    table = {"embedding_optimizer": options.optimizer, "embedding_dim": options.dim}
    if options.strategy == "sharded":
        table["shard"] = Shard(rank, processes)
    module = CTRModule(data.field_tokens, "pme_lightning.backbones.DeepFM", network, **table)
    callbacks: list[Callback] = [PruningCallback(ExpectedInformation(), AfterWarmup(score_last=1.0), Prefix())]
    if options.phase == "finetune":
        scores = Popularity().scores(torch.empty(data.num_tokens, options.dim), None, data.frequencies).table
        sizes = Prefix().allocate(scores, budget=module.full_parameters // 10).sizes
        linear = torch.zeros(data.num_tokens).bool()
        callbacks = [TransferCallback(SearchResult(sizes, linear, options.dim, None, "10%", "Popularity"))]
    sent = measured(module, data, options.strategy, *callbacks)
    size = 4 * (module.embedding.num_parameters + sum(each.numel() for each in module.backbone.parameters()))
    dense = 2 * (processes - 1) / processes * size
    if rank == 0:
        print(f"{options.phase}, {options.strategy}: {processes} processes, parameters {size / 1e6:.2f} MB")
        print(
            f"  sent a step by each: {sent / 1e6:.2f} MB; with dense gradients of the table it is {dense / 1e6:.2f} MB"
        )
        print(f"  memory of each: {(resident() - before) / size:.1f} times its parameters")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
