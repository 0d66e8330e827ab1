"""Memory of each process where the table is split over processes, by accounting and by the processes' resident sets.

    python -m torch.distributed.run --standalone --nproc-per-node 4 benchmarks/sharded_memory.py

A search, the checkpoint that is written at its end, the transfer to sizes that keep a tenth, a fine-tune, its
checkpoint, and reading that checkpoint again. What is counted is in bytes; resident is by how much the anonymous
memory of a process (what is not a file's) grew at most, sampled every few milliseconds, since before there was a model.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import quiet
from started_processes import rank_and_processes
from zipf_clicks import ZipfClicks

from pme_lightning import CTRModule
from pme_lightning.callbacks import PruningCallback, TransferCallback
from pme_lightning.embedding import Shard
from pme_lightning.runs.checkpoints import load_module
from pme_lightning.search import AfterWarmup, ExpectedInformation, Prefix

Made = TypeVar("Made")
STEPS = 10


class Counted(Callback):
    """Counts the bytes of a process's share of the table in the last step of a fit.

    Attributes:
        parts: Bytes of weights, gradient, optimizer state and the criterion's accumulators.
    """

    def __init__(self) -> None:
        self.parts: dict[str, int] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Counts; the optimizer has its state from the second step on."""
        assert isinstance(pl_module, CTRModule)
        table = pl_module.table_parameters
        states = (value for parameter in table for value in optimizer.state.get(parameter, {}).values())
        searches = (each for each in trainer.callbacks if isinstance(each, PruningCallback))  # type: ignore[attr-defined]
        sums = (tensor for each in searches for tensor in each.criterion.state().values() if len(tensor) > 1)
        self.parts = {
            "weights": sum(_bytes(parameter) for parameter in table),
            "gradient": sum(_bytes(parameter.grad) for parameter in table),
            "optimizer": sum(_bytes(value) for value in states if value.ndim),
            "criterion": sum(_bytes(tensor) for tensor in sums),
        }


class Watch:
    """Samples the anonymous memory of this process."""

    def __init__(self) -> None:
        self.before = anonymous()

    def most(self, work: Callable[[], Made]) -> tuple[Made, int]:
        """Runs something; returns what it returned and by how much memory grew at most, from the beginning on."""
        most, done = anonymous(), threading.Event()

        def sample() -> None:
            nonlocal most
            while not done.wait(0.005):
                most = max(most, anonymous())

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            made = work()
        finally:
            done.set()
            thread.join()
        return made, most - self.before


def anonymous() -> int:
    """The bytes of this process's resident set that are not a file's (Linux)."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def _bytes(tensor: torch.Tensor | None) -> int:
    if tensor is None:
        return 0
    if tensor.is_sparse:
        return _bytes(tensor._indices()) + _bytes(tensor._values())
    return tensor.numel() * tensor.element_size()


def trainer_of(*callbacks: Callback) -> Trainer:
    """Returns a Trainer that splits tables and takes some steps."""
    return Trainer(
        accelerator="cpu",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        strategy="sharded",
        max_steps=STEPS,
        limit_val_batches=0,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    """Goes through the phases; the main process prints a line for each, of the process that took most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4, help="how often the search looks at the pruned model")
    options = parser.parse_args()
    quiet()
    shard = Shard(*rank_and_processes(parser))
    trainer = trainer_of()
    trainer.strategy.setup_environment()
    data = ZipfClicks(options.tokens, 8, train_rows=512 * shard.processes * STEPS, batch_size=512)
    data.setup()
    whole = 4 * data.num_tokens * (options.dim + 1)
    share = whole / shard.processes

    def say(phase: str, resident: int, counted: Counted | None = None) -> None:
        parts = {} if counted is None else counted.parts
        numbers = torch.tensor([resident, *parts.values()])
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        if shard.rank == 0:
            each = "".join(f", {name} {int(n) / share:.3f}" for name, n in zip(parts, numbers[1:], strict=True))
            print(f"  {phase}: resident {int(numbers[0]) / share:.2f}{each}", flush=True)

    if shard.rank == 0:
        print(f"{shard.processes} processes, table {whole / 1e6:.1f} MB; below in shares of {share / 1e6:.1f} MB")
    watch = Watch()

    def model() -> CTRModule:
        torch.manual_seed(0)
        table = {"embedding_optimizer": "pme_lightning.optim.LazyAdagrad", "embedding_dim": options.dim}
        network = {"hidden_units": [64]}
        return CTRModule(data.field_tokens, "pme_lightning.backbones.DeepFM", network, **table, shard=shard)

    module, resident = watch.most(model)
    say("built", resident)
    counted, criterion = Counted(), ExpectedInformation(rounds=options.rounds)
    search = PruningCallback(criterion, AfterWarmup(score_last=1.0), Prefix(), 0.1)
    trainer = trainer_of(search, counted)
    _, resident = watch.most(lambda: trainer.fit(module, datamodule=data))
    say("search", resident, counted)
    with tempfile.TemporaryDirectory() as own:
        folder = trainer.strategy.broadcast(own)
        path = Path(folder) / "last.ckpt"
        _, resident = watch.most(lambda: trainer.save_checkpoint(path))
        say("checkpoint with optimizer and sums written", resident)
        if shard.rank == 0:
            print(f"    its file: {path.stat().st_size / whole:.2f} of the table")
        result = search.result
        assert result is not None
        del search, criterion  # as where a run drops the search
        counted = Counted()
        trainer = trainer_of(TransferCallback(result, "warm"), counted)
        module.trainer = data.trainer = None  # as in a run
        gc.collect()
        _, resident = watch.most(lambda: trainer.fit(module, datamodule=data))
        say("transfer and fine-tune at a tenth", resident, counted)
        trainer.save_checkpoint(path, weights_only=True)
        module.trainer = data.trainer = None
        trainer = trainer_of()
        gc.collect()
        _, resident = watch.most(lambda: load_module(path, shard))
        say("its checkpoint read", resident)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
