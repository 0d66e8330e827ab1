"""What is checked of a run before it costs time: that its parts are there, can be built, and fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    ProgressBar,
)

from pme_lightning.averages import check_averages
from pme_lightning.class_path import import_class, instantiate
from pme_lightning.configuration.commands import USES_CHECKPOINT
from pme_lightning.configuration.objects import (
    backbone_arguments,
    build,
    build_trainer,
    listed,
    optimizer_arguments,
    trainer_options,
)
from pme_lightning.data import EncodedDataModule
from pme_lightning.errors import BadInput
from pme_lightning.optim import build_optimizer
from pme_lightning.precision import check_precision
from pme_lightning.processes.connection import check_processes, shard_of
from pme_lightning.runs.loggers import check_logger
from pme_lightning.sixteen_bits import check_bits
from pme_lightning.table_description import check_table

# Callbacks of Lightning's that cannot do here what they are for, and what to do instead.
_NOT_HERE = {
    LearningRateFinder: "sets one learning rate, and the network and the table have one each: try optimizer.lr and "
    "embedding_optimizer.lr",
    ModelPruning: "masks weights by what no other phase knows of: what makes the table small is the search",
}


def check_paths(command: str, config: Namespace) -> None:
    """Refuses a command without the files it needs, or with files that it would not look at."""
    if command in USES_CHECKPOINT and not config.ckpt_path:
        raise BadInput(f"{command} needs a checkpoint: ckpt_path=PATH")
    if command == "finetune" and not config.sizes:
        raise BadInput("finetune needs sizes: sizes=PATH of a search's sizes.safetensors")
    if command in ("pme", "pareto", "search", "fit"):
        if config.ckpt_path:
            raise BadInput(f"{command} starts from nothing: leave ckpt_path out, or use finetune or test")
        if config.sizes:
            raise BadInput(f"{command} takes no sizes: use finetune sizes=PATH")
    if config.ckpt_path and not Path(config.ckpt_path).expanduser().is_file():
        raise BadInput(f"ckpt_path: there is no file '{config.ckpt_path}'")


def check_parts(command: str, config: Namespace) -> Trainer:
    """Builds once, before any data is read, what does not need the data: bad values show at once.

    Returns:
        A Trainer as the phases will have, of the same devices, machines and strategy.
    """
    _check_optimizers(config)
    _check_backbone(config)
    search = build(config.search)
    check_logger(config.logger)
    EarlyStopping(**config.early_stopping.as_dict())
    options = check_processes(command, trainer_options(config))
    bars = any(isinstance(each, ProgressBar) for each in listed(options.get("callbacks")))
    trainer = build_trainer(options | {"logger": False, "enable_progress_bar": bars})
    split = shard_of(trainer) is not None
    if command not in USES_CHECKPOINT:
        check_precision(trainer.precision, split)
    if split and command in ("pme", "pareto", "search"):
        _check_search_splits(search)
    check_averages(config, trainer)
    _check_callbacks(config, trainer)
    return trainer


def _check_optimizers(config: Namespace) -> None:
    """Builds the optimizers once, and refuses what does not suit the embedding table."""
    weight, row = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    build_optimizer([weight, row], [row], **optimizer_arguments(config))
    if issubclass(import_class(config.optimizer.class_path), torch.optim.SparseAdam):
        raise BadInput(
            "optimizer: SparseAdam steps rows of tables alone, and the network has none: "
            "embedding_optimizer=torch.optim.SparseAdam"
        )
    table_optimizer = config.embedding_optimizer or config.optimizer
    check_table(config.model.embedding_dim, config.model.embedding_init_std, config.model.embedding_bits)
    check_bits(config.model.embedding_bits, table_optimizer.class_path)


def _check_backbone(config: Namespace) -> None:
    """Builds a backbone of ours once, without memory, as for two fields: ours take any number of them.

    Those of a user may not, and are built when it is known how many there are.
    """
    path = config.backbone.class_path
    if path.rpartition(".")[0] == "pme_lightning.backbones":
        with torch.device("meta"):
            instantiate(path, 2, config.model.embedding_dim, **backbone_arguments(config))


def _check_search_splits(search: Any) -> None:
    """Refuses a search that cannot be made on a table that is split over processes."""
    if not hasattr(search, "check_splits"):
        raise BadInput(f"search {type(search).__name__} does not know of split tables (check_splits): use trainer=ddp")
    search.check_splits()


def _check_callbacks(config: Namespace, trainer: Trainer) -> None:
    """Refuses callbacks of Lightning's that cannot do here what they are for."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for cls, why in _NOT_HERE.items():
            if isinstance(callback, cls):
                raise BadInput(f"trainer.callbacks: {cls.__name__} {why}")
        if isinstance(callback, LearningRateMonitor) and config.logger is None:
            raise BadInput("trainer.callbacks: LearningRateMonitor writes to a logger, and there is none: logger=csv")


def check_labels(data: EncodedDataModule) -> None:
    """Refuses splits that AUC cannot be measured on."""
    for split, clicks in data.clicks.items():
        if clicks in (0, data.rows[split]) and data.rows[split]:
            raise BadInput(
                f"the {split} split of '{data.name}' has only rows with label {int(clicks > 0)}: "
                "AUC needs both labels; split the rows in another way"
            )
