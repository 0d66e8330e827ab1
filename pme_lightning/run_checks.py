"""What is checked of a run before it costs time: that its parts are there, can be built, and fit together."""

from __future__ import annotations

import json
import math
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
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pme_lightning.averages import check_averages
from pme_lightning.class_path import import_class, instantiate
from pme_lightning.configuration.commands import USES_CHECKPOINT
from pme_lightning.configuration.objects import backbone_arguments, build, listed, optimizer_arguments, trainer_options
from pme_lightning.data import EncodedDataModule
from pme_lightning.data.encoded import place_among_processes
from pme_lightning.errors import BadInput
from pme_lightning.loggers import check_logger
from pme_lightning.module import CTRModule, check_table
from pme_lightning.optim import build_optimizer
from pme_lightning.precision import check_precision
from pme_lightning.processes import check_processes, shard_of
from pme_lightning.run_folder import find_run_folder
from pme_lightning.sixteen_bits import check_bits

# Callbacks of Lightning's that cannot do here what they are for, and what to do instead.
_NOT_HERE = {
    LearningRateFinder: "sets one learning rate, and the network and the table have one each: try optimizer.lr and "
    "embedding_optimizer.lr",
    ModelPruning: "masks weights by what no other phase knows of: what makes the table small is the search",
}
# The splits that a checkpoint is measured on, and what to do where it was trained on some of their rows.
_OWN_ROWS = "data.{0}_path=FILE data.path=null takes all rows of a file"
_MEASURED_ON = {
    "validate": {"valid": _OWN_ROWS.format("valid")},
    "test": {"test": _OWN_ROWS.format("test")},
    "export": {"valid": _OWN_ROWS.format("valid")},
    "predict": {"predict": "data.predict_path=FILE takes all rows of a file"},
    "finetune": dict.fromkeys(
        ("valid", "test"), "transfer.init=scratch starts from nothing, data.time_column=COLUMN tests on the latest rows"
    ),
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
    weight, row = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    build_optimizer([weight, row], [row], **optimizer_arguments(config))
    if issubclass(import_class(config.optimizer.class_path), torch.optim.SparseAdam):
        raise BadInput(
            "optimizer: SparseAdam steps rows of tables alone, and the network has none: "
            "embedding_optimizer=torch.optim.SparseAdam"
        )
    table_optimizer = config.get("embedding_optimizer") or config.optimizer
    check_table(config.model.embedding_dim, config.model.embedding_init_std, config.model.embedding_bits)
    check_bits(config.model.embedding_bits, table_optimizer.class_path)
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
    if split:
        _check_sharded(command, search)
    check_averages(config, trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for cls, why in _NOT_HERE.items():
            if isinstance(callback, cls):
                raise BadInput(f"trainer.callbacks: {cls.__name__} {why}")
        if isinstance(callback, LearningRateMonitor) and config.logger is None:
            raise BadInput("trainer.callbacks: LearningRateMonitor writes to a logger, and there is none: logger=csv")
    return trainer


def _check_backbone(config: Namespace) -> None:
    """Builds a backbone of ours once, without memory, as for two fields: ours take any number of them.

    Those of a user may not, and are built when it is known how many there are.
    """
    path = config.backbone.class_path
    if path.rpartition(".")[0] == "pme_lightning.backbones":
        with torch.device("meta"):
            instantiate(path, 2, config.model.embedding_dim, **backbone_arguments(config))


def _check_sharded(command: str, search: Any) -> None:
    """Refuses what cannot be done with a table that is split over processes."""
    if command in ("pme", "pareto", "search"):
        if not hasattr(search, "check_splits"):
            raise BadInput(
                f"search {type(search).__name__} does not know of split tables (check_splits): use trainer=ddp"
            )
        search.check_splits()


def check_labels(data: EncodedDataModule) -> None:
    """Refuses splits that AUC cannot be measured on."""
    for split, clicks in data.clicks.items():
        if clicks in (0, data.rows[split]) and data.rows[split]:
            raise BadInput(
                f"the {split} split of '{data.name}' has only rows with label {int(clicks > 0)}: "
                "AUC needs both labels; split the rows in another way"
            )


def check_batches(data: EncodedDataModule, trainer: Namespace) -> None:
    """Refuses limits that leave a split without a batch or AUC without a label, and validations that would never come.

    A search has no validation, so that Lightning would refuse them when it is over.

    Args:
        data: The data, of which all splits are there.
        trainer: The ``trainer`` part of the configuration.
    """
    loaders = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}
    for split, loader in loaders.items():
        whole = len(loader())
        key, limit = _limit(split, trainer)
        taken = limited(split, whole, trainer)
        if taken == 0:
            raise BadInput(f"trainer.{key}: {limit} of {whole} batches is none; write how many, trainer.{key}=1")
        if split == "train":
            _check_interval(taken, trainer)
            _check_first_validation(trainer, taken)
        elif taken < whole:
            _check_first_labels(data, {"val": "valid"}.get(split, split), taken, f"trainer.{key}")


def limited(split: str, batches: int, trainer: Namespace) -> int:
    """Returns how many of the batches of a split the limits of the Trainer leave.

    Args:
        split: train, val, or test.
        batches: How many it has.
        trainer: The ``trainer`` part of the configuration.
    """
    limit = _limit(split, trainer)[1]
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit or batches)


def _limit(split: str, trainer: Namespace) -> tuple[str, int | float | None]:
    """Returns the key of the limit of a split, and what it is."""
    key = f"limit_{split}_batches" if split == "test" or not trainer.overfit_batches else "overfit_batches"
    return key, trainer[key]


def _check_interval(batches: int, trainer: Namespace) -> None:
    """Refuses validations that would come after the end of every epoch."""
    every = trainer.val_check_interval
    if isinstance(every, (int, float)) and every > batches and trainer.check_val_every_n_epoch is not None:
        raise BadInput(
            f"trainer.val_check_interval: {every:g} is above the {batches} batches of an epoch; write a fraction, such "
            "as 0.5, or trainer.check_val_every_n_epoch=null as well, to count batches over epochs"
        )


def _check_first_validation(trainer: Namespace, epoch: int) -> None:
    """Refuses a training that ends before its first validation.

    Args:
        trainer: The ``trainer`` part of the configuration.
        epoch: The batches of an epoch.
    """
    every = 1.0 if trainer.val_check_interval is None else trainer.val_check_interval
    if not isinstance(every, (int, float)):
        return  # a time
    first = max(1, int(epoch * every)) if isinstance(every, float) else every
    first += ((trainer.check_val_every_n_epoch or 1) - 1) * epoch
    more = "no model could be chosen by validation: validate more often (trainer.val_check_interval)"
    most = (trainer.max_epochs or 0) * epoch
    if 0 < most < first:
        raise BadInput(f"trainer.max_epochs: with {most} batches, and the first validation after {first}, {more}")
    epochs, batches = divmod(first - 1, epoch)
    before = epochs * math.ceil(epoch / trainer.accumulate_grad_batches) + batches // trainer.accumulate_grad_batches
    if 0 < trainer.max_steps <= before:
        raise BadInput(
            f"trainer.max_steps: {trainer.max_steps} is reached before the first validation, after {before + 1} steps, "
            f"so {more}"
        )


def _check_first_labels(data: EncodedDataModule, split: str, batches: int, key: str) -> None:
    """Refuses the first batches of a split where AUC cannot be measured on them; streamed rows are not known yet."""
    if split not in data.data.splits:
        return
    labels = data.data.splits[split][1][: batches * data.eval_batch_size * place_among_processes()[1]]
    if labels.min() == labels.max():
        raise BadInput(
            f"{key}: the first {batches} batches of the {split} split have only rows with label {int(labels[0])}: "
            "AUC needs both labels; take more of them, or raise data.eval_batch_size"
        )


def check_unseen(command: str, data: EncodedDataModule) -> None:
    """Refuses splits to measure a checkpoint on that may have rows which it was trained on, with what to do instead."""
    for split, remedy in _MEASURED_ON[command].items():
        try:
            data.check_unseen(split)
        except BadInput as error:
            raise BadInput(f"{error}; {remedy}") from error


def check_same_model(path: str, module: CTRModule, config: Namespace) -> None:
    """Refuses a command line that asks for another model than the checkpoint of a run holds."""
    if find_run_folder(path) is None:
        return
    asked = {"backbone": config.backbone.class_path, "backbone_args": backbone_arguments(config)}
    asked |= {key: config.model[key] for key in ("embedding_dim", "embedding_bits")}
    for key, value in asked.items():
        if json.dumps(value, default=str) != json.dumps(module.hparams[key], default=str):
            raise BadInput(
                f"ckpt_path: '{path}' was trained with {key} {module.hparams[key]}, not {value}: "
                "leave backbone and model out, they come with the checkpoint"
            )


def build_trainer(options: dict[str, Any]) -> Trainer:
    """Builds a Trainer; what it objects to is the user's input."""
    try:
        return Trainer(**options)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise BadInput(f"trainer: {error}") from error
    except RuntimeError as error:
        # Of callbacks, or of the machine: a device or a scheduler (SLURM) that is not set up as it has to be.
        key = "trainer.callbacks" if "more than one stateful callback" in str(error) else "trainer"
        raise BadInput(f"{key}: {error}") from error
