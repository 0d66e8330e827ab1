"""Fits every kind of search on a small click log and saves what it scored; started by torchrun, or imported.

``searches.py FOLDER``: every process writes ``FOLDER/RANK.safetensors``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from torch import Tensor

from pme_lightning import CTRModule, SyntheticDataModule
from pme_lightning.backbones import DCN, FM
from pme_lightning.callbacks import PEPCallback, PruningCallback, token_sample
from pme_lightning.embedding import Shard
from pme_lightning.optim import LazyAdagrad
from pme_lightning.runs.resume_point import ResumePoint
from pme_lightning.search import (
    AfterWarmup,
    AtInit,
    ExpectedInformation,
    FieldPopularity,
    FieldSaliency,
    FieldSizes,
    Fisher,
    Gradual,
    Magnitude,
    NoTraining,
    Popularity,
    Prefix,
    Random,
    Saliency,
    SingleShot,
    TopK,
    Uniform,
)

SEARCHES: dict[str, Callable[[], PruningCallback]] = {
    "pme": lambda: PruningCallback(ExpectedInformation(), AfterWarmup(epochs=1.5), Prefix(), 0.4, field_dropout=0.2),
    # Of 120 tokens 20 stand for all.
    "pme_sampled": lambda: PruningCallback(ExpectedInformation(), AfterWarmup(epochs=1.5), Prefix(), 0.4),
    "pme_fields": lambda: PruningCallback(ExpectedInformation("field"), AfterWarmup(epochs=1.5), Prefix(), 0.4),
    "pme_gradual": lambda: PruningCallback(ExpectedInformation("original"), Gradual(prunings=3), Prefix(), 0.4),
    "fisher": lambda: PruningCallback(Fisher(), AfterWarmup(), Prefix(), 0.4),
    "fisher_gradual": lambda: PruningCallback(Fisher(), Gradual(prunings=3), Prefix(), 0.4),
    "magnitude": lambda: PruningCallback(Magnitude(), AfterWarmup(), TopK(), 0.4),
    "at_init": lambda: PruningCallback(Saliency(), AtInit(batches=5), TopK(), 0.4),
    "sseds": lambda: PruningCallback(FieldSaliency(), SingleShot(batches=5), FieldSizes(), 0.6),
    "mde": lambda: PruningCallback(FieldPopularity(), NoTraining(), FieldSizes(), 0.6),
    "popularity": lambda: PruningCallback(Popularity(), NoTraining(), Prefix(), 0.4),
    "pep": lambda: PEPCallback(AfterWarmup(), TopK(), init=-3.0, budget=0.4),
}

# Those that a table can have that is split over processes; ties are of many tokens in the last of them.
SPLIT: dict[str, Callable[[], PruningCallback]] = {
    **{name: SEARCHES[name] for name in ("pme", "pme_fields", "fisher", "magnitude", "at_init", "popularity")},
    "random": lambda: PruningCallback(Random(), NoTraining(), Prefix(scope="field"), 0.4),
    "steps": lambda: PruningCallback(Fisher(), AfterWarmup(), Prefix("field", [1, 3], 1), 0.5),
    "uniform": lambda: PruningCallback(Uniform(), NoTraining(), Prefix(), 0.43),
}


def searched(
    batch_size: int,
    processes: int = 1,
    accumulated: int = 1,
    searches: dict[str, Callable[[], PruningCallback]] = SEARCHES,
    shard: Shard | None = None,
) -> dict[str, Tensor]:
    """Returns the scores and sizes of every search; where the table is split, the scores of all processes."""
    found: dict[str, Tensor] = {}
    for name, make in searches.items():
        for backbone in (FM, DCN) if name == "pme" else (FM,):
            data = SyntheticDataModule(rows=1509, tokens=120, num_fields=3, batch_size=batch_size, seed=3)
            data.prepare_data()
            data.setup()
            torch.manual_seed(1)
            options = {"hidden_units": [8]} if backbone is DCN else {}
            model = CTRModule(
                data.field_tokens, backbone, options, embedding_dim=4, embedding_init_std=0.1, shard=shard
            )
            search = make()
            quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
            trainer = Trainer(
                accelerator="cpu",
                devices=processes,
                strategy="sharded" if shard else "ddp" if processes > 1 else "auto",
                max_epochs=9,
                limit_val_batches=0,
                enable_checkpointing=False,
                accumulate_grad_batches=accumulated,
                callbacks=[search],
                **quiet,
            )
            with patch.object(token_sample, "_DRAWN", 20 if name == "pme_sampled" else token_sample._DRAWN):
                trainer.fit(model, datamodule=data)
            assert search.scores is not None
            assert search.result is not None
            key = f"{name}.{backbone.__name__}"
            whole = search.tokens.whole
            found |= {f"{key}.scores": whole(search.scores.table).clone(), f"{key}.sizes": search.result.sizes}
            if search.scores.linear is not None:
                found[f"{key}.linear"] = whole(search.scores.linear).clone()
    return found


def drawn(processes: int, folder: Path) -> dict[str, Tensor]:
    """Returns what a process draws after it has trained as in a run, with a point to go on from, and its table.

    The table has 16 bits, which are rounded at random.
    """
    data = SyntheticDataModule(rows=1509, tokens=120, num_fields=3, batch_size=256)
    torch.manual_seed(1)
    point = ResumePoint(folder / "last.ckpt")
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "limit_val_batches": 0}
    trainer = Trainer(accelerator="cpu", devices=processes, strategy="ddp", max_epochs=1, callbacks=[point], **options)
    data.prepare_data()
    data.setup()
    table = {"embedding_optimizer": LazyAdagrad, "embedding_optimizer_args": {"weight_decay": 1e-3}}
    model = CTRModule(data.field_tokens, FM, embedding_bits=16, **table)
    trainer.fit(model, datamodule=data)
    return {"drawn": torch.rand(4), "table": model.embedding.weight.detach().clone()}


if __name__ == "__main__":
    rank, processes, place = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(sys.argv[1])
    found = searched(64, processes, accumulated=2) | drawn(processes, place)
    split = searched(64, processes, 2, SPLIT, Shard(rank, processes))
    found |= {f"split.{name}": tensor for name, tensor in split.items()}
    save_file(found, place / f"{rank}.safetensors")
    dist.destroy_process_group()
