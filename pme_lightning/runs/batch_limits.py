"""The limits on the batches of a split (``trainer.limit_val_batches``), and what they must leave."""

from __future__ import annotations

from jsonargparse import Namespace

from pme_lightning.data import EncodedDataModule
from pme_lightning.data.encoded import place_among_processes
from pme_lightning.epoch_steps import optimizer_steps
from pme_lightning.errors import BadInput


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
            _check_first_validation(taken, trainer)
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


def _check_first_validation(batches: int, trainer: Namespace) -> None:
    """Refuses a training that ends before its first validation.

    Args:
        batches: The batches of an epoch.
        trainer: The ``trainer`` part of the configuration.
    """
    every = 1.0 if trainer.val_check_interval is None else trainer.val_check_interval
    if not isinstance(every, (int, float)):
        return  # a time
    # In batches from the start of the training.
    first = max(1, int(batches * every)) if isinstance(every, float) else every
    first += ((trainer.check_val_every_n_epoch or 1) - 1) * batches
    last = (trainer.max_epochs or 0) * batches
    remedy = "no model could be chosen by validation: validate more often (trainer.val_check_interval)"
    if 0 < last < first:
        raise BadInput(f"trainer.max_epochs: with {last} batches, and the first validation after {first}, {remedy}")
    accumulated = trainer.accumulate_grad_batches
    epochs, rest = divmod(first - 1, batches)
    steps = epochs * optimizer_steps(batches, accumulated) + rest // accumulated
    if 0 < trainer.max_steps <= steps:
        raise BadInput(
            f"trainer.max_steps: {trainer.max_steps} is reached before the first validation, after {steps + 1} steps, "
            f"so {remedy}"
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
