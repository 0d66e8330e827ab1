"""Loggers of a run: one object a phase, all writing to the same place under names of their own."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from pme_lightning.arguments import init_args
from pme_lightning.class_path import import_class, instantiate
from pme_lightning.errors import BadInput
from pme_lightning.ranks import is_main


def phase_logger(
    config: Namespace | None, folder: Path, phase: str, resolved: dict[str, Any], logged: int | None = None
) -> Logger | None:
    """Builds the logger of a phase.

    Weights & Biases shows all phases of a command as one run, with the phase before each name (``search/train_loss``);
    file loggers write ``logs/PHASE/``.

    Args:
        config: The ``logger`` part of the configuration; ``None`` for none.
        folder: The run folder.
        phase: Name of the phase.
        resolved: The whole configuration, logged with the run.
        logged: How many steps of the phase were logged before it was interrupted; ``None``: it starts.

    Raises:
        BadInput: The logger needs a package that is not installed.
    """
    if config is None:
        return None
    arguments = init_args(config)
    cls = import_class(config.class_path)
    logs = folder / "logs"
    logger: Logger
    try:
        if issubclass(cls, WandbLogger):
            logger = _wandb(cls, arguments, folder, phase)
        elif issubclass(cls, (CSVLogger, TensorBoardLogger)):
            if logged is not None and issubclass(cls, TensorBoardLogger):
                arguments["purge_step"] = logged
            logger = cls(save_dir=logs, **arguments | {"name": phase, "version": ""})
            if logged is not None and isinstance(logger, CSVLogger):
                _write_on(logger, logged)
        else:
            logger = instantiate(cls, **arguments | {"save_dir": str(logs)})
    except ModuleNotFoundError as error:
        raise BadInput(f"logger {cls.__name__} needs a package: {str(error).splitlines()[0]}") from error
    logger.log_hyperparams(resolved)
    return logger


def _write_on(logger: CSVLogger, logged: int) -> None:
    """Has a logger go on with a file that it would begin afresh, after the steps that count."""
    file = Path(logger.log_dir) / "metrics.csv"
    if not is_main() or not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if row["step"] and int(row["step"]) < logged]
    logger.experiment.metrics_keys = names
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)


def _wandb(cls: type[WandbLogger], arguments: dict[str, Any], folder: Path, phase: str) -> WandbLogger:
    import wandb

    # Without a key there is nobody to ask: the run is kept on disk, and `wandb sync` uploads it later.
    if wandb.run is None and "WANDB_MODE" not in os.environ and not wandb.login(prompt=False):
        arguments |= {"offline": True, "mode": "offline"}
    arguments["name"] = arguments.get("name") or folder.name
    # The phases of one command are one run.
    logger = cls(save_dir=folder, prefix=phase, experiment=wandb.run, **arguments)
    logger.LOGGER_JOIN_CHAR = "/"
    return logger


def finish_loggers(logger: Logger | None, summary: dict[str, Any]) -> None:
    """Writes the summary where the logger keeps one, and closes the run."""
    if logger is None:
        return
    figures = {key: value for key, value in _flat(summary) if isinstance(value, (int, float))}
    if isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.summary.update(summary)
        wandb.finish()
    else:
        logger.log_metrics({f"summary/{key}": float(value) for key, value in figures.items()})
        logger.finalize("success")


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else [(prefix + key, value)]
    return found
